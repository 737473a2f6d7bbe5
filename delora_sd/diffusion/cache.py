"""What the frozen parts compute once, text embeddings and latents, so that they leave memory while the UNet trains."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextModel, CLIPTokenizer

TEXT_BATCH = 64
"""Prompts per forward of the text encoder (0.1 TFLOP at SD 1.5's size)."""
PHOTO_BATCH = 4
"""Photos per forward of the VAE: 512 px in fp32 need about 2 GB each."""


@dataclass(frozen=True, kw_only=True)
class LatentStats:
    """The VAE's posterior of each photo, times `vae.config.scaling_factor`: the scale the UNet was trained on."""

    mean: Float[Tensor, "photos channels height width"]
    std: Float[Tensor, "photos channels height width"]


@torch.no_grad()
def encode_prompts(
    texts: Sequence[str], tokenizer: "CLIPTokenizer", text_encoder: "CLIPTextModel"
) -> Float[Tensor, "prompts tokens dim"]:
    """Returns the UNet's conditioning for each prompt, in the text encoder's dtype on its device.

    Warns of each prompt that is longer than the tokenizer's limit, with the words that are cut.
    """
    warn_if_cut(texts, tokenizer)
    batches = []
    for start in range(0, len(texts), TEXT_BATCH):
        tokens = tokenizer(
            list(texts[start : start + TEXT_BATCH]),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        batches.append(text_encoder(tokens.input_ids.to(text_encoder.device)).last_hidden_state)
    return torch.cat(batches)


def warn_if_cut(texts: Sequence[str], tokenizer: "CLIPTokenizer") -> None:
    """Warns of each prompt whose end the text encoder will not see."""
    num_words = tokenizer.model_max_length - 2  # start and end marks
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if len(ids) > num_words:
            cut = tokenizer.decode(ids[num_words:])
            cut = cut if len(cut) <= 80 else cut[:77] + "..."
            warnings.warn(
                f"prompt '{text[:40]}...' has {len(ids)} tokens, the model reads {num_words}; not seen: '{cut}'",
                stacklevel=3,
            )


@torch.no_grad()
def encode_photos(images: Float[Tensor, "photos 3 size size"], vae: "AutoencoderKL") -> LatentStats:
    """Returns the posterior of each photo as fp32 tensors on the CPU.

    Args:
        images: In [-1, 1], on any device.
        vae: Sets device and precision; fp32 is worth its time here, each photo is encoded once.
    """
    means, stds = [], []
    for batch in images.split(PHOTO_BATCH):
        posterior = vae.encode(batch.to(vae.device, vae.dtype)).latent_dist
        means.append(posterior.mean.float().cpu())
        stds.append(posterior.std.float().cpu())
    scale = vae.config.scaling_factor
    return LatentStats(mean=torch.cat(means) * scale, std=torch.cat(stds) * scale)


def cache_folder() -> Path:
    """Returns where runs share what is dear to make (class images): $DELORA_SD_CACHE, else ~/.cache/delora_sd."""
    return Path(os.environ.get("DELORA_SD_CACHE") or Path.home() / ".cache" / "delora_sd").expanduser()
