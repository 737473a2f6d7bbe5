"""Adapters on disk: what is written is read back bit for bit, and PEFT computes the same or refuses."""

import json
from pathlib import Path

import pytest
import torch
from adapter_cases import ATTENTION, CONVOLUTIONS, INITS, adapted, config_of, kick, small_unet, unet_output
from peft import DeloraConfig, LoraConfig, PeftModel, get_peft_model
from peft.tuners.delora.layer import DeloraLinear
from safetensors.torch import load_file

from delora_sd.adapters.exchange.stored.formats import (
    LORA_FOLDER,
    OWN_TYPE,
    load_adapter,
    restore_adapter,
    save_adapter,
)
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import attach, attach_adapters
from delora_sd.files.tensors import read_tensors, write_tensors

CASES = [
    *((method, "frozen_copy", targets) for method in METHODS for targets in (ATTENTION, CONVOLUTIONS)),
    *((method, init, ATTENTION) for method in ("delora", "normalized_lora") for init in INITS[1:]),
]


def _saved(folder: Path, config, unet=None):
    # An unbounded LoRA, kicked as hard as the others, would make the attention amplify rounding.
    pack = adapted(unet or small_unet(), config, size=0.1 if config.method == "lora" else 0.3)
    save_adapter(pack.adapters[0], folder, base="owner/base")
    return pack.adapters[0]


@pytest.mark.parametrize(("method", "init", "targets"), CASES)
def test_a_saved_adapter_is_read_back_bit_for_bit(tmp_path, method, init, targets):
    config = config_of(method, init=init, target_modules=targets, rank_pattern={"attn1": 6})
    unet = small_unet()
    adapter = _saved(tmp_path / "a", config, unet)
    again = load_adapter(tmp_path / "a")
    assert again.config == config
    assert again.specs() == adapter.specs()
    for layer, tensors in adapter.layer_tensors().items():
        assert all(torch.equal(value, again.layer_tensors()[layer][name]) for name, value in tensors.items())
    other = small_unet()
    attach(other, [again]).make_factors()
    assert torch.equal(unet_output(other), unet_output(unet))


@pytest.mark.parametrize("norm", ["column", "frobenius", "none"])
@pytest.mark.parametrize("init", INITS)
def test_peft_computes_the_same_delora_or_refuses_and_is_offered_the_exact_lora(tmp_path, init, norm):
    """PEFT keeps `delora_w_norm` in the file, so a Frobenius norm or none is a constant vector to it."""
    unet = small_unet()
    _saved(tmp_path / "a", config_of("delora", init=init, weight_norm=norm, rank_pattern={"attn1": 2}), unet)
    if init == "frozen_copy":
        assert json.loads((tmp_path / "a/adapter_config.json").read_text())["peft_type"] == OWN_TYPE
        with pytest.raises(KeyError):
            PeftModel.from_pretrained(small_unet(), tmp_path / "a")
        theirs = PeftModel.from_pretrained(small_unet(), tmp_path / "a" / LORA_FOLDER)
    else:
        theirs = PeftModel.from_pretrained(small_unet(), tmp_path / "a")
    assert (unet_output(theirs) - unet_output(unet)).abs().max() < 1e-5


@pytest.mark.parametrize("targets", [ATTENTION, CONVOLUTIONS])
@pytest.mark.parametrize("method", ["lora", "dora"])
def test_peft_computes_the_same_lora_and_dora(tmp_path, method, targets):
    unet = small_unet()
    _saved(tmp_path / "a", config_of(method, target_modules=targets, alpha=7.0, rank_pattern={"attn1": 2}), unet)
    theirs = PeftModel.from_pretrained(small_unet(), tmp_path / "a")
    assert (unet_output(theirs) - unet_output(unet)).abs().max() < 1e-5


def test_delora_convolutions_are_refused_by_peft_and_offered_as_lora(tmp_path):
    unet = small_unet()
    _saved(tmp_path / "a", config_of("delora", init="mirrored", target_modules=CONVOLUTIONS), unet)
    why = json.loads((tmp_path / "a/adapter_config.json").read_text())["why_not_peft"]
    assert "convolution" in why and LORA_FOLDER in why
    theirs = PeftModel.from_pretrained(small_unet(), tmp_path / "a" / LORA_FOLDER)
    assert (unet_output(theirs) - unet_output(unet)).abs().max() < 1e-5


@pytest.mark.parametrize("merged", [False, True])
def test_our_layer_equals_pefts_delora_layer_on_the_same_tensors(merged):
    layer = torch.nn.Linear(12, 9)
    theirs = DeloraLinear(layer, "default", DeloraConfig(r=4, delora_lambda=3.0), r=4, delora_lambda=3.0)
    torch.nn.init.normal_(theirs.delora_B["default"])
    unet = torch.nn.Module()
    unet.layer = torch.nn.Linear(12, 9)
    unet.layer.load_state_dict(layer.state_dict())
    config = config_of("delora", init="zero_up", boundary=3.0, boundary_unit="paper", target_modules=("layer",))
    pack = attach_adapters(unet, [config], seeds=[0])
    own = {"A": theirs.delora_A["default"], "B": theirs.delora_B["default"], "boundary": torch.tensor(3.0)}
    own["weight_norm"] = theirs.delora_w_norm["default"]
    pack.adapters[0].copy_from({"layer": own})
    pack.make_factors()
    if merged:
        theirs.merge()
    x = torch.randn(5, 12)
    torch.testing.assert_close(unet.layer(x), theirs(x), atol=1e-5, rtol=1e-5)
    assert (unet.layer(x) - unet.layer.base(x)).abs().max() > 1e-2


def test_a_delora_folder_of_peft_becomes_ours_and_a_folder_with_the_same_tensors(tmp_path):
    patterns = {"rank_pattern": {"attn1.to_q": 2}, "lambda_pattern": {"attn2.to_k": 5}}
    config = DeloraConfig(r=4, delora_lambda=3, target_modules=list(ATTENTION), init_weights=False, **patterns)
    theirs = get_peft_model(small_unet(), config)
    theirs.save_pretrained(tmp_path / "theirs")
    ours = load_adapter(tmp_path / "theirs")
    assert ours.config.method == "delora" and ours.config.rank == 4
    boundaries = {layer: value for layer, value in ours.boundaries().items() if value != 3}
    assert boundaries and all("attn2.to_k" in layer and value == 5 for layer, value in boundaries.items())
    unet = small_unet()
    attach(unet, [ours]).make_factors()
    assert (unet_output(unet) - unet_output(theirs)).abs().max() < 1e-5
    save_adapter(ours, tmp_path / "ours", base="owner/base")
    before, after = (load_file(tmp_path / name / "adapter_model.safetensors") for name in ("theirs", "ours"))
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    again = PeftModel.from_pretrained(small_unet(), tmp_path / "ours")
    assert torch.equal(unet_output(again), unet_output(theirs))


@pytest.mark.parametrize("options", [{}, {"use_dora": True}, {"use_rslora": True}, {"alpha_pattern": {"to_k": 3}}])
def test_lora_folders_of_peft_are_read(tmp_path, options):
    config = LoraConfig(
        r=4, lora_alpha=6, target_modules=["to_q", "to_k", "proj_in"], init_lora_weights=False, **options
    )
    theirs = get_peft_model(small_unet(), config)
    theirs.save_pretrained(tmp_path / "theirs")
    unet = small_unet()
    attach(unet, [load_adapter(tmp_path / "theirs")]).make_factors()
    assert (unet_output(unet) - unet_output(theirs)).abs().max() < 1e-5


def test_layers_chosen_by_a_regular_expression_are_read(tmp_path):
    config = LoraConfig(r=4, target_modules=r".*attn2\.to_q", init_lora_weights=False)
    get_peft_model(small_unet(), config).save_pretrained(tmp_path / "theirs")
    adapter = load_adapter(tmp_path / "theirs")
    assert set(adapter.config.target_modules) == set(adapter.specs())
    assert all(layer.endswith("attn2.to_q") for layer in adapter.specs())


def test_a_resumed_adapter_is_the_saved_one(tmp_path):
    config = config_of("delora")
    saved = _saved(tmp_path / "a", config)
    fresh = attach_adapters(small_unet(), [config], seeds=[9]).adapters[0]
    restore_adapter(fresh, tmp_path / "a")
    for (name, ours), (_, theirs) in zip(fresh.parameters_by_name(), saved.parameters_by_name(), strict=True):
        assert torch.equal(ours, theirs), name


def test_saving_twice_gives_the_same_bytes(tmp_path):
    adapter = _saved(tmp_path / "a", config_of("delora"))
    save_adapter(adapter, tmp_path / "b", base="owner/base")
    files = sorted(path.relative_to(tmp_path / "a") for path in (tmp_path / "a").rglob("*") if path.is_file())
    assert len(files) == 4
    assert all((tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes() for file in files)


def test_tensor_files_keep_every_dtype_and_the_metadata(tmp_path):
    dtypes = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.uint8, torch.bool)
    tensors = {str(dtype): torch.arange(3).to(dtype) for dtype in dtypes} | {"scalar": torch.tensor(2.5)}
    write_tensors(tmp_path / "t.safetensors", tensors, {"b": "2", "a": "ä"})
    again, metadata = read_tensors(tmp_path / "t.safetensors")
    assert metadata == {"a": "ä", "b": "2"}
    assert again.keys() == tensors.keys()
    assert all(torch.equal(value, again[name]) and value.dtype == again[name].dtype for name, value in tensors.items())
    assert torch.equal(load_file(tmp_path / "t.safetensors")["scalar"], tensors["scalar"])


def test_a_half_precision_adapter_file_is_read_as_fp32(tmp_path):
    _saved(tmp_path / "a", config_of("lora"))
    tensors, metadata = read_tensors(tmp_path / "a/adapter_model.safetensors")
    half = {name: value.half() for name, value in tensors.items()}
    write_tensors(tmp_path / "a/adapter_model.safetensors", half, metadata)
    adapter = load_adapter(tmp_path / "a")
    assert all(parameter.dtype == torch.float32 for parameter in adapter.parameters())


def test_kicked_adapters_differ_from_fresh_ones():
    """The control of this file: what is saved is not the start."""
    pack = attach_adapters(small_unet(), [config_of("delora")], seeds=[0])
    before = [parameter.clone() for parameter in pack.adapters[0].parameters()]
    kick(pack)
    assert not any(torch.equal(a, b) for a, b in zip(before, pack.adapters[0].parameters(), strict=True))
