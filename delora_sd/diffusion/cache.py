"""What the frozen parts compute once, text embeddings and latents, so that they leave memory while training goes on."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from delora_sd.diffusion.families.family import SIZES, Base, Condition, Conditions, Family
from delora_sd.diffusion.parts import load_text

PHOTO_BATCH = 4
"""Photos per forward of the VAE: 512 px in fp32 need about 2 GB each."""


@dataclass(frozen=True, kw_only=True)
class LatentStats:
    """The VAE's posterior of each photo, on the scale the denoiser was trained on."""

    mean: Float[Tensor, "photos channels height width"]
    std: Float[Tensor, "photos channels height width"]
    sizes: Int[Tensor, "photos 6"] | None = None
    """Original height and width, top and left of the crop, its height and width, in pixels; none: nobody asks."""


@torch.no_grad()
def embed_texts(base: Base, texts: Sequence[str], *, device: torch.device, dtype: torch.dtype) -> dict[str, Condition]:
    """Returns the condition of each distinct text; the text encoders are loaded, used and dropped."""
    distinct = list(dict.fromkeys(texts))
    text = load_text(base, device=device, dtype=dtype)
    return dict(zip(distinct, base.family.encode_prompts(distinct, text), strict=True))


def stack_conditions(conditions: Sequence[Condition], sizes: Int[Tensor, "batch 6"] | None) -> Conditions:
    """Returns the conditions of a batch, one after the other, with the sizes of its images."""
    stacked = {name: torch.stack([each[name] for each in conditions]) for name in conditions[0]}
    return stacked if sizes is None else stacked | {SIZES: sizes}


def cast_conditions(conditions: Conditions, dtype: torch.dtype) -> Conditions:
    """Returns the conditions in the denoiser's precision; whole numbers stay whole."""
    return {name: value.to(dtype) if value.is_floating_point() else value for name, value in conditions.items()}


def whole_sizes(height: int, width: int, num_images: int) -> Int[Tensor, "batch 6"]:
    """Returns the sizes of images that are whole: drawn at their size, never cropped."""
    return torch.tensor([[height, width, 0, 0, height, width]]).expand(num_images, -1)


@torch.no_grad()
def encode_photos(
    images: Float[Tensor, "photos 3 height width"],
    vae: nn.Module,
    family: Family,
    sizes: Int[Tensor, "photos 6"] | None = None,
) -> LatentStats:
    """Returns the posterior of each photo as fp32 tensors on the CPU.

    Args:
        images: In [-1, 1], on any device.
        vae: Sets device and precision; fp32 is worth its time here, each photo is encoded once.
    """
    means, stds = [], []
    for batch in images.split(PHOTO_BATCH):
        mean, std = family.encode_images(batch.to(vae.device, vae.dtype), vae)
        means.append(mean.float().cpu())
        stds.append(std.float().cpu())
    return LatentStats(mean=torch.cat(means), std=torch.cat(stds), sizes=sizes)


def cache_folder() -> Path:
    """Returns where runs share what is dear to make (class images): $DELORA_SD_CACHE, else ~/.cache/delora_sd."""
    return Path(os.environ.get("DELORA_SD_CACHE") or Path.home() / ".cache" / "delora_sd").expanduser()
