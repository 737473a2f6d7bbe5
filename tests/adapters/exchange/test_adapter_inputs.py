"""Plain LoRA files and PEFT folders as inputs of export, merge and generate, and the whole change of PEFT's methods."""

import json
import shutil

import pytest
import torch
from adapter_cases import ATTENTION, config_of, kick, small_unet, unet_output
from peft import IA3Config, LoraConfig, PeftModel, RoadConfig, get_peft_model
from safetensors.torch import save_file

from delora_sd.adapters.attach import attach_method, check_layers
from delora_sd.adapters.exchange.export.export import export_adapter, export_defaults, export_path
from delora_sd.adapters.exchange.merge.merged_model import merge_checkpoint
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.errors import UserError
from delora_sd.generation.sources import find_source, hash_adapters
from delora_sd.settings import ExportConfig, GenerateConfig, MergeConfig, NamedBase

LAYER = "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"


def _foreign_file(path, unet):
    """A kohya file of another tool: one layer, an alpha, a header of its own."""
    size = unet.get_submodule(LAYER).weight.shape[0]
    generator = torch.Generator().manual_seed(0)
    key = "lora_unet_" + LAYER.replace(".", "_")
    tensors = {
        f"{key}.lora_down.weight": torch.randn(4, size, generator=generator),
        f"{key}.lora_up.weight": torch.randn(size, 4, generator=generator),
        f"{key}.alpha": torch.tensor(2.0),
    }
    save_file(tensors, path, metadata={"ss_seed": "7", "modelspec.trigger_phrase": "sks rex", "ss_network_dim": "9"})
    return path


def _merged(unet, path, strength: float = 1.0) -> torch.Tensor:
    with merged_adapters(unet, {path: strength}):
        return unet_output(unet)


@pytest.mark.parametrize(("layout", "base"), [("kohya", None), ("diffusers", None), ("peft", None), ("kohya", "named")])
def test_a_foreign_file_is_written_in_another_layout_precision_and_strength(
    tmp_path, base_unet, tiny_sd, capsys, layout, base
):
    """Its layers' names are Stable Diffusion's: no base is needed to know them."""
    file = _foreign_file(tmp_path / "a.safetensors", base_unet())
    output = tmp_path / ("out" if layout == "peft" else "out.safetensors")
    named = NamedBase(base=str(tiny_sd)) if base else NamedBase()
    settings = {"layout": layout, "precision": "fp32", "strength": 0.5, "model": named}
    export_adapter(ExportConfig(run=str(file), output=str(output), **settings))
    assert "exact LoRA, 1 layers, rank 4" in " ".join(capsys.readouterr().out.split())
    expected = _merged(base_unet(), file, 0.5)
    assert (_merged(base_unet(), output) - expected).abs().max() < 1e-5
    if layout == "peft":
        assert (unet_output(PeftModel.from_pretrained(base_unet(), output)) - expected).abs().max() < 1e-5


def test_a_foreign_header_travels_and_what_it_says_of_the_tensors_is_said_anew(tmp_path, base_unet):
    from safetensors import safe_open

    file = _foreign_file(tmp_path / "a.safetensors", base_unet())
    export_adapter(ExportConfig(run=str(file), output=str(tmp_path / "b.safetensors"), rank=2))
    with safe_open(tmp_path / "b.safetensors", "pt") as written:
        found = written.metadata()
    expected = {"ss_seed": "7", "modelspec.trigger_phrase": "sks rex", "ss_network_dim": "2", "delora.svd_rank": "2"}
    assert {key: found[key] for key in expected} == expected
    assert "delora.method" not in found


def test_a_foreign_file_is_merged_into_a_named_base(tmp_path, base_unet, tiny_sd):
    from diffusers import UNet2DConditionModel

    file = _foreign_file(tmp_path / "a.safetensors", base_unet())
    with pytest.raises(UserError, match=r"does not say which base it belongs to; name it: model\.base="):
        merge_checkpoint(MergeConfig(run=str(file), output=str(tmp_path / "merged")))
    named = {"model": NamedBase(base=str(tiny_sd)), "precision": "fp32"}
    merge_checkpoint(MergeConfig(run=str(file), output=str(tmp_path / "merged"), **named))
    unet = UNet2DConditionModel.from_pretrained(tmp_path / "merged", subfolder="unet")
    assert (unet_output(unet) - _merged(base_unet(), file)).abs().max() < 1e-5


@pytest.mark.parametrize("name", ["x" * 250, "犬" * 90])
def test_an_output_whose_name_no_file_system_takes_is_refused_before_anything_loads(tmp_path, base_unet, name):
    file = _foreign_file(tmp_path / "a.safetensors", base_unet())
    with pytest.raises(UserError, match=r"output: the name .* has 2\d\d bytes; expected at most 255"):
        export_adapter(ExportConfig(run=str(file), output=str(tmp_path / f"{name}.safetensors")))
    with pytest.raises(UserError, match=r"output: the name .* bytes; expected at most 255"):
        merge_checkpoint(MergeConfig(run=str(file), output=str(tmp_path / (name * 2))))


def test_an_adapter_that_needs_weights_takes_them_from_the_named_base(make_run, base_unet, tiny_sd, tmp_path):
    run, adapted = make_run(config_of("ether_plus"), size=0.1)
    shutil.move(run.adapter, tmp_path / "alone")
    config = json.loads((tmp_path / "alone/adapter_config.json").read_text())
    (tmp_path / "alone/adapter_config.json").write_text(json.dumps(config | {"base_model_name_or_path": None}))
    settings = {"run": str(tmp_path / "alone"), "output": str(tmp_path / "b.safetensors"), "precision": "fp32"}
    with pytest.raises(UserError, match="needs the frozen weights; name the base"):
        export_adapter(ExportConfig(**settings))
    export_adapter(ExportConfig(**settings, model=NamedBase(base=str(tiny_sd))))
    assert (_merged(base_unet(), tmp_path / "b.safetensors") - unet_output(adapted)).abs().max() < 1e-5


def _peft_folder(folder):
    get_peft_model(
        small_unet(), LoraConfig(r=2, target_modules=list(ATTENTION), init_lora_weights=False)
    ).save_pretrained(folder)


def test_folders_with_parts_are_found(tmp_path):
    _peft_folder(tmp_path / "rex/unet")
    expected = _merged(small_unet(), tmp_path / "rex/unet")
    assert torch.equal(_merged(small_unet(), tmp_path / "rex"), expected)
    _peft_folder(tmp_path / "rex/text_encoder")
    with pytest.warns(UserWarning, match="also changes text_encoder; only the UNet's part is used"):
        assert torch.equal(_merged(small_unet(), tmp_path / "rex"), expected)


def test_a_folder_of_exports_names_its_files_and_one_file_is_enough(make_run, tmp_path, tiny_sd):
    run, _ = make_run(config_of("lora"))
    paths = export_defaults(run)
    with pytest.raises(UserError, match=r"holds several files; name one: .*diffusers\.safetensors, .*kohya"):
        _merged(small_unet(), run.export)
    paths[0].unlink()
    source = find_source(GenerateConfig(run=str(run.export), output_dir=str(tmp_path / "out")))
    assert (list(source.adapters), source.model.base) == ([paths[1]], str(tiny_sd))


def test_a_folder_without_an_adapter_says_what_would_be_one(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match=r"neither a run folder .* nor a PEFT folder .*; found notes.txt"):
        find_source(GenerateConfig(run=str(tmp_path), output_dir="out"))


@pytest.mark.parametrize("second", ["copy", "same folder otherwise named", "its file"])
def test_the_same_adapter_twice_is_refused(make_run, tmp_path, second):
    run, _ = make_run(config_of("lora"))
    shutil.copytree(run.adapter, tmp_path / "copy")
    other = {
        "copy": tmp_path / "copy",
        "same folder otherwise named": run.path.parent / run.path.name,
        "its file": run.adapter / "adapter_model.safetensors",
    }[second]
    config = GenerateConfig(run=str(run.adapter), output_dir=str(tmp_path), extra_adapters={str(other): 0.5})
    with pytest.raises(UserError, match=r"is given twice|is the same adapter as"):
        hash_adapters(find_source(config).adapters)


def test_another_adapter_beside_it_counts_as_another(make_run, tmp_path):
    first, _ = make_run(config_of("lora"))
    second, _ = make_run(config_of("lora", alpha=2.0), name="other")
    hashed = hash_adapters({first.adapter: 1.0, second.adapter: 0.5})
    assert list(hashed.values()) == [1.0, 0.5]


BIASED = {
    "IA3": IA3Config(target_modules=["to_out.0", "to_q"], feedforward_modules=[]),
    "RoAd": RoadConfig(target_modules=["to_out.0", "to_q"], init_weights=False, group_size=8),
    "LoRA with bias": LoraConfig(target_modules=["to_out.0"], init_lora_weights=False, lora_bias=True),
}


@pytest.mark.filterwarnings("ignore:Adapter .* have invalid shape")  # PEFT of a bias of its own
@pytest.mark.parametrize("name", BIASED)
def test_a_change_of_biases_is_part_of_the_change(tmp_path, name):
    model = get_peft_model(small_unet(), BIASED[name])
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(tmp_path / "a")
    expected, unet = unet_output(PeftModel.from_pretrained(small_unet(), tmp_path / "a")), small_unet()
    before = {key: value.clone() for key, value in unet.state_dict().items()}
    with merged_adapters(unet, {tmp_path / "a": 1.0}):
        assert (unet_output(unet) - expected).abs().max() < 1e-5
        changed = [key for key, value in unet.state_dict().items() if not torch.equal(value, before[key])]
    assert any(key.endswith("to_out.0.bias") for key in changed)


@pytest.mark.parametrize(
    "peft", [{"peft_type": "IA3", "feedforward_modules": []}, {"peft_type": "ROAD", "group_size": 8}]
)
def test_a_change_of_biases_is_no_plain_lora(make_run, tmp_path, peft):
    (tmp_path / "peft.json").write_text(json.dumps(peft | {"target_modules": ["to_out.0"]}))
    run, _ = make_run(config_of("peft", peft_config=str(tmp_path / "peft.json")))
    with pytest.raises(UserError, match=r"also changes .* biases .*which no plain LoRA holds"):
        export_adapter(ExportConfig(run=str(run.path)))
    with pytest.warns(UserWarning, match="no plain LoRA is written"):
        assert export_defaults(run) == []
    assert not export_path(run, "kohya").exists()


@pytest.mark.parametrize(
    "dropout",
    [{"peft_type": "LOHA", "module_dropout": 0.9}, {"peft_type": "LOKR", "module_dropout": 0.9},
     {"peft_type": "HRA"}, {"peft_type": "OFT", "module_dropout": 0.9, "oft_block_size": 8, "r": 0}],
)  # fmt: skip
def test_what_is_drawn_between_steps_drops_nothing(tmp_path, dropout):
    (tmp_path / "peft.json").write_text(json.dumps({"r": 4} | dropout))
    unet = small_unet()
    config = config_of("peft", peft_config=str(tmp_path / "peft.json"))
    check_layers(config, unet)
    pack = kick(attach_method(unet, [config], seeds=[0]), size=0.3)
    unet.train()
    training = [module.training for module in unet.modules()]
    with pack.only(0):
        outputs = [unet_output(unet) for _ in range(3)]
    assert all(torch.equal(outputs[0], output) for output in outputs)
    assert [module.training for module in unet.modules()] == training
