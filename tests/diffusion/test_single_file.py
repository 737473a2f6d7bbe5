"""A checkpoint in one .safetensors file becomes a base, offline; what is no whole checkpoint is refused."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import make_tiny_sd
import make_tiny_sdxl
from delora_sd.diffusion import single_file
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.text.clip_words import write_clip_tokenizer
from delora_sd.diffusion.unet.stability_names import original_name
from delora_sd.errors import UserError
from delora_sd.settings import ModelConfig

CONFIGS = {
    "sd15-architecture": {
        "unet": make_tiny_sd.UNET,
        "vae": make_tiny_sd.VAE,
        "text_encoder": make_tiny_sd.TEXT_ENCODER,
        "scheduler": make_tiny_sd.SCHEDULER | {"_class_name": "DDIMScheduler"},
    },
    "sdxl-architecture": {
        "unet": make_tiny_sdxl.UNET,
        "vae": make_tiny_sd.VAE,
        "text_encoder": make_tiny_sd.TEXT_ENCODER,
        "text_encoder_2": make_tiny_sdxl.TEXT_ENCODER_2,
        "scheduler": make_tiny_sd.SCHEDULER | {"_class_name": "DDIMScheduler"},
    },
}


@pytest.fixture(autouse=True)
def tiny_architectures(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(single_file, "read_architecture", CONFIGS.__getitem__)
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))


def unet_in_one_file(folder: Path, num_resnets: int) -> dict[str, torch.Tensor]:
    """The UNet's tensors under Stability's names."""
    tensors = {}
    for name, value in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
        layer, _, kind = name.rpartition(".")
        original = {"conv_norm_out": "out.0"}.get(layer) or original_name(layer, num_resnets, {"0", "1"})
        tensors[f"model.diffusion_model.{original}.{kind}"] = value
    return tensors


def vae_in_one_file(folder: Path, num_blocks: int = 2) -> dict[str, torch.Tensor]:
    pairs = [("conv_shortcut", "nin_shortcut"), ("conv_norm_out", "norm_out"), ("mid_block.attentions.0", "mid.attn_1")]
    pairs += [(f"mid_block.resnets.{i}", f"mid.block_{i + 1}") for i in range(2)]
    for i in range(num_blocks):
        up = num_blocks - 1 - i
        pairs += [(f"down_blocks.{i}.resnets", f"down.{i}.block"), (f"up_blocks.{i}.resnets", f"up.{up}.block")]
        pairs += [(f"down_blocks.{i}.downsamplers.0", f"down.{i}.downsample")]
        pairs += [(f"up_blocks.{i}.upsamplers.0", f"up.{up}.upsample")]
    attention = [("group_norm", "norm"), ("to_q", "q"), ("to_k", "k"), ("to_v", "v"), ("to_out.0", "proj_out")]
    tensors = {}
    for name, value in load_file(folder / "vae" / "diffusion_pytorch_model.safetensors").items():
        for ours, theirs in pairs + (attention if "attentions" in name else []):
            name = name.replace(ours, theirs)
        is_product = "attn_1" in name and value.ndim == 2
        tensors[f"first_stage_model.{name}"] = value[..., None, None] if is_product else value
    return tensors


def text_in_one_file(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    tensors = load_file(folder / "text_encoder" / "model.safetensors")
    return {f"{prefix}text_model.{name.removeprefix('text_model.')}": value for name, value in tensors.items()}


def open_clip_in_one_file(folder: Path, prefix: str) -> dict[str, torch.Tensor]:
    given = load_file(folder / "text_encoder_2" / "model.safetensors")
    given = {name.removeprefix("text_model."): value for name, value in given.items()}
    pairs = [("encoder.layers", "transformer.resblocks"), ("layer_norm", "ln_"), ("self_attn", "attn")]
    pairs += [("mlp.fc1", "mlp.c_fc"), ("mlp.fc2", "mlp.c_proj"), ("final_ln_", "ln_final")]
    pairs += [("embeddings.token_embedding", "token_embedding")]
    tensors = {}
    for name, value in given.items():
        if "k_proj" in name or "v_proj" in name or name == "embeddings.position_ids":
            continue
        if "q_proj" in name:
            value = torch.cat([given[name.replace("q_proj", f"{part}_proj")] for part in "qkv"])
        for ours, theirs in pairs:
            name = name.replace(ours, theirs)
        tensors[name.replace("q_proj.weight", "in_proj_weight").replace("q_proj.bias", "in_proj_bias")] = value
    tensors["positional_embedding"] = tensors.pop("embeddings.position_embedding.weight")
    tensors["text_projection"] = tensors.pop("text_projection.weight").T
    return {prefix + name: value.contiguous() for name, value in tensors.items()}


def sd_in_one_file(folder: Path) -> dict[str, torch.Tensor]:
    text = text_in_one_file(folder, "cond_stage_model.transformer.")
    return unet_in_one_file(folder, 1) | vae_in_one_file(folder) | text


def sdxl_in_one_file(folder: Path) -> dict[str, torch.Tensor]:
    text = text_in_one_file(folder, "conditioner.embedders.0.transformer.")
    text |= open_clip_in_one_file(folder, "conditioner.embedders.1.model.")
    return unet_in_one_file(folder, 2) | vae_in_one_file(folder) | text


FAMILIES = {
    "sd": (make_tiny_sd.write_tiny_sd, sd_in_one_file),
    "sdxl": (make_tiny_sdxl.write_tiny_sdxl, sdxl_in_one_file),
}


@pytest.mark.parametrize("name", FAMILIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_every_part_of_a_single_file_is_the_folders(name: str, dtype: torch.dtype, tmp_path: Path):
    write, in_one_file = FAMILIES[name]
    folder = write(tmp_path / "folder")
    file = tmp_path / f"{name}.safetensors"
    save_file({key: value.to(dtype) for key, value in in_one_file(folder).items()}, file)
    base = find_base(ModelConfig(base=str(file), offline=True))
    assert (base.family.name, base.size_px, base.prediction_type) == (name, 32, "epsilon")
    for part, stem in base.family.weight_files.items():
        expected = load_file(folder / part / f"{stem}.safetensors")
        found = load_file(base.folder / part / f"{stem}.safetensors")
        assert set(found) == set(expected)
        assert all(torch.equal(found[key], value.to(dtype)) for key, value in expected.items())


def test_the_file_is_converted_once_and_known_by_its_contents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    tensors = sd_in_one_file(make_tiny_sd.write_tiny_sd(tmp_path / "folder"))
    save_file(tensors, tmp_path / "a.safetensors")
    first = find_base(ModelConfig(base=str(tmp_path / "a.safetensors")))
    monkeypatch.setattr(single_file, "convert", None)
    again = find_base(ModelConfig(base=str(tmp_path / "a.safetensors")))
    assert (again.folder, again.fingerprint) == (first.folder, first.fingerprint)
    monkeypatch.undo()
    monkeypatch.setattr(single_file, "read_architecture", CONFIGS.__getitem__)
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))
    save_file(tensors | {"v_pred": torch.zeros(0), "ztsnr": torch.zeros(0)}, tmp_path / "a.safetensors")
    other = find_base(ModelConfig(base=str(tmp_path / "a.safetensors")))
    assert other.fingerprint != first.fingerprint
    assert other.prediction_type == "v_prediction" and other.schedule.rescale_betas_zero_snr


FIRST = "model.diffusion_model.input_blocks.0.0.weight"
SD1 = "cond_stage_model.transformer.text_model.embeddings.position_embedding.weight"
SD2 = "cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight"
REFINER = "conditioner.embedders.0.model.transformer.resblocks.0.attn.in_proj_weight"
REFUSED = {
    "inpainting": ({SD1: (77, 768), FIRST: (320, 9, 3, 3)}, "takes 9 channels, expected 4"),
    "refiner": ({REFINER: (3, 4), FIRST: (384, 4, 3, 3)}, "refiner polishes the last steps"),
    "2.x that keeps its prediction to itself": ({SD2: (3, 4), FIRST: (320, 4, 3, 3)}, "predicts noise or v"),
    "a LoRA": ({"lora_unet_x.lora_up.weight": (3, 4)}, "no whole checkpoint of a family that is converted"),
    "without a VAE": ({SD1: (77, 24), FIRST: (16, 4, 3, 3)}, "diffusers cannot convert this checkpoint"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_a_base_is_refused(name: str, tmp_path: Path):
    shapes, message = REFUSED[name]
    save_file({key: torch.zeros(shape) for key, shape in shapes.items()}, tmp_path / "x.safetensors")
    with pytest.raises(UserError, match=message):
        find_base(ModelConfig(base=str(tmp_path / "x.safetensors")))
    assert not list((tmp_path / "cache").rglob("*.json")), "nothing half converted stays"


@pytest.mark.parametrize(("pad", "pad_id"), [("<|endoftext|>", 49407), ("!", 0)])
def test_clips_words_have_clips_numbers(pad: str, pad_id: int, tmp_path: Path):
    from transformers import CLIPTokenizer

    write_clip_tokenizer(tmp_path, pad=pad)
    tokenizer = CLIPTokenizer.from_pretrained(str(tmp_path))
    ids = tokenizer("a photo of an astronaut", padding="max_length", max_length=10).input_ids
    assert ids == [49406, 320, 1125, 539, 550, 18376, 49407, pad_id, pad_id, pad_id]
