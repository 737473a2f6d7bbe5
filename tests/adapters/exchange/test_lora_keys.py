"""Spellings of a LoRA's keys: every tool's, what wrappers put between, and true reasons for what is no LoRA of ours."""

import pytest
import torch
from adapter_cases import small_unet
from safetensors.torch import save_file

from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.plain_lora.key_names import layers_by_flat_name, original_name
from delora_sd.adapters.lowrank.pack import ADAPTABLE
from delora_sd.errors import UserError

BLOCK = "down_blocks.0.attentions.0.transformer_blocks.0.attn1"
ORIGINAL = "input_blocks.1.1.transformer_blocks.0.attn1"
"""The same layers in Stability's code."""

PAIRS = {
    "compiled": ("unet._orig_mod.{}.to_q.lora_A.weight", "unet._orig_mod.{}.to_q.lora_B.weight"),
    "compiled block": ("unet.{}._orig_mod.to_q.lora_A.weight", "unet.{}._orig_mod.to_q.lora_B.weight"),
    "data parallel": ("module.unet.{}.to_q.lora_A.weight", "module.unet.{}.to_q.lora_B.weight"),
    "data parallel, bare": ("module.{}.to_q.lora.down.weight", "module.{}.to_q.lora.up.weight"),
    "FSDP": ("_fsdp_wrapped_module.{}.to_q.lora_A.weight", "_fsdp_wrapped_module.{}.to_q.lora_B.weight"),
    "unet twice": ("unet.unet.{}.to_q.lora_A.weight", "unet.unet.{}.to_q.lora_B.weight"),
    "PEFT in a pipeline": (
        "unet.base_model.model.{}.to_q.lora_A.weight",
        "unet.base_model.model.{}.to_q.lora_B.weight",
    ),
    "adapter's name": ("unet.{}.to_q.lora_A.default.weight", "unet.{}.to_q.lora_B.default.weight"),
    "another adapter's name": ("unet.{}.to_q.lora_A.rex-1.weight", "unet.{}.to_q.lora_B.rex-1.weight"),
    "to_q_lora without processor": ("unet.{}.to_q_lora.down.weight", "unet.{}.to_q_lora.up.weight"),
    "processor and lora": ("unet.{}.processor.to_q.lora.down.weight", "unet.{}.processor.to_q.lora.up.weight"),
    "LyCORIS": ("lycoris_{}_to_q.lora_down.weight", "lycoris_{}_to_q.lora_up.weight"),
    "compiled kohya": ("lora_unet__orig_mod_{}_to_q.lora_down.weight", "lora_unet__orig_mod_{}_to_q.lora_up.weight"),
}
ORIGINAL_PAIRS = {
    "whole model's": (
        "model.diffusion_model.{}.to_q.lora_down.weight",
        "model.diffusion_model.{}.to_q.lora_up.weight",
    ),
    "the UNet's": ("diffusion_model.{}.to_q.lora_A.weight", "diffusion_model.{}.to_q.lora_B.weight"),
    "kohya's": ("lora_unet_{}_to_q.lora_down.weight", "lora_unet_{}_to_q.lora_up.weight"),
}


def _factors(rank: int = 3, size: int = 32):
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(rank, size, generator=generator), 0.3 * torch.randn(size, rank, generator=generator)


def _spelled(pattern: str, block: str) -> str:
    is_flat = pattern.startswith(("lora_unet", "lycoris"))
    return pattern.format(block.replace(".", "_") if is_flat else block)


def _change(path, layer: str) -> torch.Tensor:
    unet = small_unet()
    weight = unet.get_submodule(layer).weight.clone()
    with merged_adapters(unet, {path: 1.0}):
        return unet.get_submodule(layer).weight - weight


CASES = [(*pair, BLOCK) for pair in PAIRS.values()] + [(*pair, ORIGINAL) for pair in ORIGINAL_PAIRS.values()]


@pytest.mark.parametrize(("down_key", "up_key", "block"), CASES, ids=[*PAIRS, *ORIGINAL_PAIRS])
def test_every_spelling_is_read(tmp_path, down_key, up_key, block):
    down, up = _factors()
    save_file({_spelled(down_key, block): down, _spelled(up_key, block): up}, tmp_path / "a.safetensors")
    torch.testing.assert_close(_change(tmp_path / "a.safetensors", f"{BLOCK}.to_q"), up @ down, atol=1e-6, rtol=1e-5)


def test_the_names_of_stabilitys_code_are_those_that_diffusers_converts():
    from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint

    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser
    from delora_sd.settings import ModelConfig

    unet = load_denoiser(find_base(ModelConfig(base="sd15-architecture")), device="meta", dtype=torch.float32)
    layers = {name: module for name, module in unet.named_modules() if isinstance(module, ADAPTABLE)}
    theirs = dict(zip(range(len(layers)), layers, strict=True))
    original = {name: original_name(name, 2, {"1", "2", "3"}) for name in layers}
    by_flat_name = layers_by_flat_name(layers)
    assert all(by_flat_name[written.replace(".", "_")] == name for name, written in original.items())
    assert len(layers) == 282
    keys = {f"model.diffusion_model.{original[name]}.weight": torch.tensor(n) for n, name in theirs.items()}
    keys |= {f"model.diffusion_model.{original[name]}.bias": torch.tensor(n) for n, name in theirs.items()}
    for name in ("out.0.weight", "out.0.bias"):
        keys[f"model.diffusion_model.{name}"] = torch.tensor(-1)
    converted = convert_ldm_unet_checkpoint(keys, dict(unet.config) | {"class_embed_type": None})
    found = {key.removesuffix(".weight"): int(value) for key, value in converted.items() if key.endswith(".weight")}
    assert {name: found[name] for name in layers} == {name: number for number, name in theirs.items()}


@pytest.mark.parametrize("is_conv_file", [True, False])
def test_factors_of_a_layer_of_1_by_1_are_read_in_either_shape(tmp_path, is_conv_file):
    """Stable Diffusion 1's proj_in is a convolution, Stable Diffusion 2's a Linear layer; files mix them up."""
    layer = f"{BLOCK}.to_q" if is_conv_file else "down_blocks.0.attentions.0.proj_in"
    down, up = _factors()
    shaped = (down[..., None, None], up[..., None, None]) if is_conv_file else (down, up)
    tensors = {f"unet.{layer}.lora_{name}.weight": value for name, value in zip("AB", shaped, strict=True)}
    save_file(tensors, tmp_path / "a.safetensors")
    change = _change(tmp_path / "a.safetensors", layer)
    torch.testing.assert_close(change.flatten(1), up @ down, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("bundle_emb.rex.clip_l", "'bundle_emb' (1 tensor)"),
        ("string_to_param", "'string_to_param' (1 tensor)"),
        ("text_encoder.text_model.encoder.layers.0.mlp.fc1.lora_A.weight", "the text encoder (1 tensor)"),
        ("lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha", "the text encoder (1 tensor)"),
    ],
)
def test_what_is_not_used_is_left_out_with_a_warning_that_counts_it(tmp_path, key, said):
    down, up = _factors()
    tensors = {f"unet.{BLOCK}.to_q.lora_A.weight": down, f"unet.{BLOCK}.to_q.lora_B.weight": up, key: torch.ones(2, 3)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match="only the UNet's part is used") as caught:
        change = _change(tmp_path / "a.safetensors", f"{BLOCK}.to_q")
    assert said in str(caught[0].message)
    torch.testing.assert_close(change, up @ down, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "reason"),
    [
        (f"lycoris_{BLOCK.replace('.', '_')}_to_q.hada_w1_a", "is a LoHa file"),
        (f"lora_unet_{BLOCK.replace('.', '_')}_norm.w_norm", "is a norm tuning file"),
        (f"base_model.model.{BLOCK}.to_q.ia3_l", "is a IA3 file.*give the folder"),
        ("base_model.unilora_theta_d", "is a UniLoRA file.*give the folder"),
        (f"unet.{BLOCK}.to_q.weight", "is no LoRA: it holds"),
        ("transformer.single_blocks.0.attn.to_q.lora_A.weight", "made for another base: this base has no layer"),
    ],
)
def test_what_cannot_be_used_is_refused_with_the_true_reason(tmp_path, key, reason):
    down, up = _factors()
    tensors = {f"unet.{BLOCK}.to_q.lora_A.weight": down, f"unet.{BLOCK}.to_q.lora_B.weight": up, key: torch.ones(2, 3)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=reason):
        _change(tmp_path / "a.safetensors", f"{BLOCK}.to_q")


def test_two_adapters_in_one_file_are_told_apart(tmp_path):
    down, up = _factors()
    keys = {f"unet.{BLOCK}.to_q.lora_{part}.{name}.weight": value for name in ("dog", "cat") for part, value in
            (("A", down.clone()), ("B", up.clone()))}  # fmt: skip
    save_file(keys, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=r"holds several adapters \(cat, dog\)"):
        _change(tmp_path / "a.safetensors", f"{BLOCK}.to_q")


@pytest.mark.parametrize("is_conv", [True, False])
def test_a_dora_scale_along_the_inputs_is_applied_as_lycoris_does(tmp_path, is_conv):
    from lycoris.modules.locon import LoConModule

    layer = "down_blocks.0.resnets.0.conv1" if is_conv else f"{BLOCK}.to_q"
    module = small_unet().get_submodule(layer)
    torch.manual_seed(0)
    theirs = LoConModule("x", module, 1.0, 4, 2.0, weight_decompose=True, wd_on_out=False)
    torch.nn.init.normal_(theirs.lora_up.weight, std=0.2)
    theirs.dora_scale.data *= 1 + 0.2 * torch.rand_like(theirs.dora_scale)
    key = "lora_unet_" + layer.replace(".", "_")
    tensors = {f"{key}.{name}": value.detach().clone() for name, value in theirs.custom_state_dict().items()}
    assert tensors[f"{key}.dora_scale"].shape[:2] == (1, 32)
    save_file(tensors, tmp_path / "a.safetensors")
    expected = theirs.get_merged_weight(1.0)[0] - module.weight
    torch.testing.assert_close(_change(tmp_path / "a.safetensors", layer), expected.detach(), atol=1e-5, rtol=1e-4)
