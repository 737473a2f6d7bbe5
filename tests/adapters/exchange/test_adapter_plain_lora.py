"""Plain LoRA files from elsewhere: three layouts, old and new keys, and what cannot be applied."""

import pytest
import torch
from adapter_cases import small_unet, unet_output
from safetensors.torch import save_file

from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.errors import UserError

LAYER = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
KOHYA = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn1_to_q"
OUT = LAYER.replace("to_q", "to_out.0")
SIZE = 64


def _factors(rank: int = 3):
    generator = torch.Generator().manual_seed(0)
    return 0.3 * torch.randn(rank, SIZE, generator=generator), 0.3 * torch.randn(SIZE, rank, generator=generator)


def _change(path, layer: str = LAYER) -> torch.Tensor:
    unet = small_unet()
    weight = unet.get_submodule(layer).weight.clone()
    with merged_adapters(unet, {path: 1.0}):
        return unet.get_submodule(layer).weight - weight


@pytest.mark.parametrize(
    ("down_key", "up_key"),
    [
        (f"{KOHYA}.lora_down.weight", f"{KOHYA}.lora_up.weight"),
        (f"unet.{LAYER}.lora_A.weight", f"unet.{LAYER}.lora_B.weight"),
        (f"unet.{LAYER}.lora.down.weight", f"unet.{LAYER}.lora.up.weight"),
        (f"{LAYER}.lora_A.weight", f"{LAYER}.lora_B.weight"),
        (f"unet.{LAYER[:-5]}.processor.to_q_lora.down.weight", f"unet.{LAYER[:-5]}.processor.to_q_lora.up.weight"),
        (f"{LAYER[:-5]}.processor.to_q_lora.down.weight", f"{LAYER[:-5]}.processor.to_q_lora.up.weight"),
    ],
)
def test_every_spelling_is_read(tmp_path, down_key, up_key):
    down, up = _factors()
    save_file({down_key: down, up_key: up}, tmp_path / "a.safetensors")
    torch.testing.assert_close(_change(tmp_path / "a.safetensors"), up @ down, atol=1e-6, rtol=1e-5)


def test_the_old_name_of_the_output_projection_is_read(tmp_path):
    down, up = _factors()
    prefix = f"{LAYER[:-5]}.processor.to_out_lora"
    save_file({f"{prefix}.down.weight": down, f"{prefix}.up.weight": up}, tmp_path / "a.safetensors")
    torch.testing.assert_close(_change(tmp_path / "a.safetensors", OUT), up @ down, atol=1e-6, rtol=1e-5)


def test_alpha_scales_by_alpha_over_rank(tmp_path):
    down, up = _factors()
    tensors = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up, f"{KOHYA}.alpha": torch.tensor(1.5)}
    save_file(tensors, tmp_path / "a.safetensors")
    torch.testing.assert_close(_change(tmp_path / "a.safetensors"), 0.5 * up @ down, atol=1e-6, rtol=1e-5)


def test_the_scale_in_the_header_of_a_diffusers_file_is_used(tmp_path):
    down, up = _factors()
    tensors = {f"unet.{LAYER}.lora_A.weight": down, f"unet.{LAYER}.lora_B.weight": up}
    save_file(tensors, tmp_path / "a.safetensors", metadata={"lora_adapter_metadata": '{"unet.lora_alpha": 6}'})
    torch.testing.assert_close(_change(tmp_path / "a.safetensors"), 2 * up @ down, atol=1e-6, rtol=1e-5)


def test_convolutions_are_read(tmp_path):
    name = "down_blocks.0.resnets.0.conv1"
    down, up = 0.1 * torch.randn(2, 32, 3, 3), 0.1 * torch.randn(32, 2, 1, 1)
    key = "lora_unet_" + name.replace(".", "_")
    save_file({f"{key}.lora_down.weight": down, f"{key}.lora_up.weight": up}, tmp_path / "a.safetensors")
    expected = torch.einsum("or,rihw->oihw", up[:, :, 0, 0], down)
    torch.testing.assert_close(_change(tmp_path / "a.safetensors", name), expected, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("key", [f"{KOHYA}.dora_scale", f"unet.{LAYER}.lora_magnitude_vector"])
def test_a_dora_scale_per_output_is_applied(tmp_path, key):
    down, up = _factors()
    prefix, names = (
        (KOHYA, ("lora_down", "lora_up")) if key.startswith(KOHYA) else (f"unet.{LAYER}", ("lora_A", "lora_B"))
    )
    scale = torch.rand(SIZE) + 0.5
    tensors = {f"{prefix}.{names[0]}.weight": down, f"{prefix}.{names[1]}.weight": up}
    save_file(tensors | {key: scale.unsqueeze(1) if prefix == KOHYA else scale}, tmp_path / "a.safetensors")
    weight = small_unet().get_submodule(LAYER).weight
    changed = weight + up @ down
    expected = scale[:, None] * changed / changed.norm(dim=1, keepdim=True) - weight
    torch.testing.assert_close(_change(tmp_path / "a.safetensors"), expected, atol=1e-5, rtol=1e-4)


def test_a_dora_scale_that_cannot_be_applied_is_refused(tmp_path):
    down, up = _factors()
    tensors = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up}
    for scale in (torch.ones(1, 5), torch.ones(5, 1), torch.ones(SIZE, 2)):
        save_file(tensors | {f"{KOHYA}.dora_scale": scale}, tmp_path / "a.safetensors")
        with pytest.raises(UserError, match="DoRA scale of shape"):
            _change(tmp_path / "a.safetensors")


def test_a_dora_scale_without_its_factors_is_refused(tmp_path):
    save_file({f"{KOHYA}.dora_scale": torch.ones(SIZE, 1)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match="lacks its down and up factor"):
        _change(tmp_path / "a.safetensors")


def test_the_text_encoders_part_is_left_out_with_a_warning(tmp_path):
    down, up = _factors()
    tensors = {f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up}
    text = {f"lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_{part}.weight": down for part in ("down", "up")}
    save_file(tensors | {key: value.clone() for key, value in text.items()}, tmp_path / "a.safetensors")
    with pytest.warns(UserWarning, match=r"text encoder \(2 tensors\); only the UNet's part"):
        change = _change(tmp_path / "a.safetensors")
    torch.testing.assert_close(change, up @ down, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        (f"{KOHYA}.hada_w1_a", "is a LoHa file"),
        (f"{KOHYA}.lokr_w1", "is a LoKr file"),
        (f"{KOHYA}.lora_mid.weight", "LoCon with a middle factor"),
        ("model.diffusion_model.out.2.weight", "is no LoRA"),
        ("lora_unet_input_blocks_4_1_proj_in.lora_down.weight", "made for another base: this base has no layer"),
        ("lora_te_text_model_x.lora_down.weight", "holds no LoRA of a UNet"),
    ],
)
def test_files_that_are_no_lora_of_this_unet_are_refused(tmp_path, key, message):
    save_file({key: torch.ones(3, SIZE)}, tmp_path / "a.safetensors")
    with pytest.raises(UserError, match=message):
        _change(tmp_path / "a.safetensors")


def test_a_lora_for_another_width_says_which_shapes_differ(tmp_path):
    tensors = {f"{KOHYA}.lora_down.weight": torch.ones(3, 99), f"{KOHYA}.lora_up.weight": torch.ones(99, 3)}
    save_file(tensors, tmp_path / "a.safetensors")
    with pytest.raises(
        UserError, match=r"1 of 1 layers differ in shape \(.*attn1\.to_q is \(99, 99\) there, \(64, 64\)"
    ):
        _change(tmp_path / "a.safetensors")


def test_an_untouched_layer_stays_as_it_is(tmp_path):
    down, up = _factors()
    save_file({f"{KOHYA}.lora_down.weight": down, f"{KOHYA}.lora_up.weight": up}, tmp_path / "a.safetensors")
    assert not _change(tmp_path / "a.safetensors", OUT).any()
    unet = small_unet()
    with merged_adapters(unet, {tmp_path / "a.safetensors": 1.0}):
        assert not torch.equal(unet_output(unet), unet_output(small_unet()))
