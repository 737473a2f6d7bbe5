"""PEFT's starts, those that change the frozen weights included: applied as PEFT applies them, or refused by name."""

import json
import warnings

import pytest
import torch
from adapter_cases import ATTENTION, config_of, kick, small_unet, unet_output
from peft import LoraConfig, PeftModel, get_peft_model

from delora_sd.adapters.attach import attach_method, check_layers
from delora_sd.adapters.exchange.export.as_lora import plain_lora_of
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.stored.formats import save_adapter
from delora_sd.errors import UserError

STARTS = {
    "plain": {},
    "random": {"init_lora_weights": False},
    "orthogonal": {"init_lora_weights": "orthogonal"},
    "pissa": {"init_lora_weights": "pissa"},
    "pissa, rank-stabilised": {"init_lora_weights": "pissa", "use_rslora": True, "lora_alpha": 3},
    "olora": {"init_lora_weights": "olora"},
    "mica": {"init_lora_weights": "mica"},
    "eva": {"init_lora_weights": "eva"},
    "lora_ga": {"init_lora_weights": "lora_ga"},
    "a bias of its own": {"lora_bias": True, "target_modules": ["to_out.0"]},
    "kasa": {"kasa_config": {}},
}
CHANGES_THE_BASE = ("pissa", "pissa, rank-stabilised", "olora", "kasa")
NEEDS_DATA = ("eva", "lora_ga", "corda")


def _settings(name: str) -> dict:
    return {"r": 4, "lora_alpha": 4, "target_modules": list(ATTENTION)} | STARTS[name]


def _saved(folder, name: str):
    """Writes a folder as PEFT does, trained somewhere."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's remarks on missing data
        model = get_peft_model(small_unet(), LoraConfig(**_settings(name)))
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(folder)
        return unet_output(PeftModel.from_pretrained(small_unet(), folder))


@pytest.mark.filterwarnings("ignore:.*is .eva. but", "ignore:.*init_lora_weights=lora_ga changed")
@pytest.mark.parametrize("name", STARTS)
def test_a_folder_is_applied_as_peft_applies_it(tmp_path, name):
    expected = _saved(tmp_path, name)
    unet = small_unet()
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    with merged_adapters(unet, {tmp_path: 1.0}):
        assert (unet_output(unet) - expected).abs().max() < 1e-5
    assert all(torch.equal(value, before[key]) for key, value in unet.state_dict().items())
    assert (expected - unet_output(unet)).abs().max() > 1e-2


def test_a_folder_that_was_trained_on_changed_weights_says_so(tmp_path):
    _saved(tmp_path, "lora_ga")
    with pytest.warns(UserWarning, match=r"init_lora_weights=lora_ga changed the frozen weights when training began"):
        plain_lora_of(tmp_path, strength=1.0, rank=None)


@pytest.mark.parametrize("name", CHANGES_THE_BASE)
def test_half_the_strength_is_half_the_way_from_the_untouched_base(tmp_path, name):
    _saved(tmp_path, name)
    unet, layer = small_unet(), "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    weight = unet.get_submodule(layer).weight.clone()
    changes = []
    for strength in (1.0, 0.5):
        with merged_adapters(unet, {tmp_path: strength}):
            changes.append(unet.get_submodule(layer).weight - weight)
    torch.testing.assert_close(changes[1], changes[0] / 2, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("name", ["pissa", "olora"])
def test_training_with_a_start_that_changes_the_base_is_what_is_saved_merged_and_measured(tmp_path, name):
    (tmp_path / "peft.json").write_text(json.dumps({"peft_type": "LORA"} | _settings(name)))
    config = config_of("peft", peft_config=str(tmp_path / "peft.json"))
    trained = small_unet()
    check_layers(config, trained)
    pack = attach_method(trained, [config], seeds=[0])
    assert (unet_output(trained) - unet_output(small_unet())).abs().max() < 1e-4
    assert all(distance < 1e-4 for distance, _ in pack.distances()[0].values())
    kick(pack, size=0.1)
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    base, merged = small_unet(), small_unet()
    with merged_adapters(merged, {tmp_path / "a": 1.0}):
        assert (unet_output(merged) - unet_output(trained)).abs().max() < 1e-4
        for layer, (distance, _) in pack.distances()[0].items():
            change = merged.get_submodule(layer).weight - base.get_submodule(layer).weight
            assert distance == pytest.approx(change.norm().item(), rel=1e-3)


def test_the_plain_lora_of_a_pissa_folder_is_its_whole_change(tmp_path, tiny_sd, base_unet):
    model = get_peft_model(base_unet(), LoraConfig(**_settings("pissa")))
    model.peft_config["default"].base_model_name_or_path = str(tiny_sd)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1
    model.save_pretrained(tmp_path / "a", save_embedding_layers=False)
    plain, unet = plain_lora_of(tmp_path / "a", strength=1.0, rank=16), base_unet()
    before = {name: unet.get_submodule(name).weight.clone() for name in plain.layers}
    with merged_adapters(unet, {tmp_path / "a": 1.0}):
        for name, factors in plain.layers.items():
            change = unet.get_submodule(name).weight - before[name]
            assert (factors.up @ factors.down.flatten(1) - change).abs().max() < 1e-5


@pytest.mark.parametrize("start", ["pissa_niter_2", "corda"])
def test_a_start_that_cannot_be_repeated_is_refused_by_name(tmp_path, start):
    _saved(tmp_path, "plain")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": start, "corda_config": {}}))
    with pytest.raises(UserError, match=r"=pissa_niter_2 takes another part|`eigens` attribute not found"):
        merged_adapters(small_unet(), {tmp_path: 1.0}).__enter__()


@pytest.mark.skipif(torch.cuda.is_available(), reason="PEFT makes LoftQ's start on a GPU only")
def test_a_start_that_peft_cannot_make_on_this_machine_is_refused_with_its_reason(tmp_path):
    _saved(tmp_path, "plain")
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    said = {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4}}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config | said))
    with pytest.raises(UserError, match="PEFT refuses: "):
        merged_adapters(small_unet(), {tmp_path: 1.0}).__enter__()


@pytest.mark.filterwarnings("ignore:.*is .*but .*_config. is not specified")
@pytest.mark.parametrize("start", NEEDS_DATA)
def test_training_refuses_starts_that_need_data_at_the_door(tmp_path, start):
    values = {"peft_type": "LORA", "r": 4, "init_lora_weights": start}
    (tmp_path / "peft.json").write_text(json.dumps(values))
    config = config_of("peft", peft_config=str(tmp_path / "peft.json"))
    with pytest.raises(UserError, match=f"init_lora_weights={start} needs a pass over data"):
        check_layers(config, small_unet())
