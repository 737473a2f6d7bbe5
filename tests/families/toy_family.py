"""A family that no code of ours knows: one file and one row of the table are all that a new base takes.

Its denoiser is a linear attention over 2 x 2 patches, its text a few numbers made of the letters.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, ModelMixin
from diffusers.configuration_utils import ConfigMixin, register_to_config
from torch import Tensor, nn
from torch.nn import functional as F

from delora_sd.diffusion.families.family import Base, Condition, Conditions, Configs, ExportNames, Facts, Family
from delora_sd.diffusion.loading import load_diffusers_part
from delora_sd.diffusion.noise.schedule import read_noise_schedule
from delora_sd.diffusion.unet import unets
from make_tiny_sd import SCHEDULER, VAE

NUM_LETTERS, WIDTH = 6, 12


class ToyDenoiser(ModelMixin, ConfigMixin):
    @register_to_config
    def __init__(self, in_channels: int = 16, width: int = WIDTH):
        super().__init__()
        self.patches = nn.Linear(in_channels, width)
        self.mixer = nn.ModuleDict({name: nn.Linear(width, width) for name in ("to_q", "to_k", "to_v", "to_mixed")})
        self.noise = nn.Linear(width, in_channels)

    def forward(self, patches: Tensor, letters: Tensor) -> Tensor:
        hidden = torch.cat([self.patches(patches), letters], dim=1)
        mixed = F.scaled_dot_product_attention(*(self.mixer[name](hidden) for name in ("to_q", "to_k", "to_v")))
        return self.noise(hidden + self.mixer["to_mixed"](mixed))[:, : patches.shape[1]]


def _read_facts(source: str, configs: Configs) -> Facts:
    return Facts(
        own_px=32,
        smallest_px=8,
        latent_channels=16,
        latent_factor=4,
        num_text_tokens=NUM_LETTERS,
        schedule=read_noise_schedule(configs["scheduler"], source=source),
    )


def _load_denoiser(base: Base, **where: Any) -> nn.Module:
    return load_diffusers_part(ToyDenoiser, base, "toy", **where)


def _encode_prompts(texts: Sequence[str], text: None) -> list[Condition]:
    def letters(text: str) -> Tensor:
        ids = torch.tensor([ord(letter) for letter in text[:NUM_LETTERS].ljust(NUM_LETTERS)])
        return torch.sin(ids[:, None] * torch.arange(1, WIDTH + 1))

    return [{"letters": letters(text)} for text in texts]


def _encode_images(images: Tensor, vae: nn.Module) -> tuple[Tensor, Tensor]:
    return tuple(F.pixel_unshuffle(part, 2) for part in unets.encode_images(images, vae))


def _decode_latents(latents: Tensor, vae: nn.Module) -> Tensor:
    return unets.decode_latents(F.pixel_shuffle(latents, 2), vae)


def _predict(denoiser: nn.Module, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
    patches = latents.flatten(2).mT
    return denoiser(patches, conditions["letters"]).mT.reshape(latents.shape)


def _no_pipeline(denoiser: nn.Module, vae: nn.Module) -> Any:
    raise NotImplementedError("diffusers has no pipeline for a toy")


TOY = Family(
    name="toy",
    title="Toy",
    denoiser="toy",
    weight_files={"toy": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model"},
    classes={"toy": "ToyDenoiser", "vae": "AutoencoderKL"},
    tokenizers=(),
    pipeline="",
    default_layers=("to_q", "to_k", "to_v", "to_mixed"),
    claims=lambda configs: "toy" in configs,
    refuse=lambda source, configs: None,
    read_facts=_read_facts,
    load_denoiser=_load_denoiser,
    load_vae=unets.load_kl_vae,
    load_text=lambda base, **where: None,
    encode_prompts=_encode_prompts,
    encode_images=_encode_images,
    decode_latents=_decode_latents,
    objective=unets.ddpm_objective,
    solver=unets.dpm_solver,
    predict=_predict,
    condition_shapes=lambda base: {"letters": (NUM_LETTERS, WIDTH)},
    lora_pipeline=_no_pipeline,
    export=ExportNames(
        claims_layers=lambda shapes: any(layer.startswith("mixer.") for layer in shapes),
        kohya_key=lambda layer: "lora_toy_" + layer.replace(".", "_"),
        modelspec=lambda shapes, is_v_prediction: "toy",
        kohya_version=lambda shapes, is_v_prediction: "toy",
    ),
)


def write_toy(folder: Path) -> Path:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        ToyDenoiser().save_pretrained(folder / "toy")
        AutoencoderKL(**VAE).save_pretrained(folder / "vae")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "ToyPipeline", "_random_weights": True}))
    return folder
