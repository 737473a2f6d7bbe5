"""Prompts and seeds to images. An image depends on weights, prompt and seed, never on its batch.

Knows no adapters: whoever calls has merged them into the UNet.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from delora_sd.diffusion.cache import encode_prompts
from delora_sd.diffusion.noise_schedule import NoiseSchedule
from delora_sd.diffusion.parts import Base, load_text_encoder
from delora_sd.errors import UserError
from delora_sd.generation.requests import ImageRequest, SamplingSettings
from delora_sd.generation.solver import build_solver

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel

DEFAULT_BATCH = {"cpu": 8, "mps": 4, "cuda": 32, "xpu": 16}
"""Images per batch where none is asked for; what does not fit a GPU is halved."""

DECODE_BATCH = 8
"""Latents per forward of the VAE's decoder, which at 512 px needs ten times the UNet's memory per image."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Everything that turns (prompt, seed) into an image."""

    unet: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    schedule: NoiseSchedule
    """The noise the base was trained under."""
    embeddings: Mapping[str, Float[Tensor, "tokens dim"]]
    """Of every prompt, and of the negative prompt."""
    sampling: SamplingSettings


def embed_texts(
    base: Base, texts: Sequence[str], sampling: SamplingSettings, *, device: torch.device, dtype: torch.dtype
) -> dict[str, Float[Tensor, "tokens dim"]]:
    """Returns the embedding of each distinct text and of the negative prompt."""
    distinct = list(dict.fromkeys([*texts, sampling.negative_prompt]))
    return dict(
        zip(distinct, encode_prompts(distinct, *load_text_encoder(base, device=device, dtype=dtype)), strict=True)
    )


@torch.no_grad()
def sample_images(sampler: Sampler, texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """Returns one image per (text, seed), drawn in one batch with classifier-free guidance (Ho & Salimans 2022)."""
    unet, sampling = sampler.unet, sampler.sampling
    side = sampling.size_px // 2 ** (len(sampler.vae.config.block_out_channels) - 1)
    latents = initial_latents(seeds, (unet.config.in_channels, side, side)).to(unet.device, unet.dtype)
    conditions = torch.stack([sampler.embeddings[text] for text in texts]).to(unet.device, unet.dtype)
    is_guided = sampling.guidance > 1
    if is_guided:
        negative = sampler.embeddings[sampling.negative_prompt].to(unet.device, unet.dtype)
        conditions = torch.cat([negative.expand_as(conditions), conditions])
    solver = build_solver(sampler.schedule, sampling.num_inference_steps, device=unet.device)
    for timestep in solver.timesteps:
        inputs = torch.cat([latents, latents]) if is_guided else latents
        prediction = unet(inputs, timestep, encoder_hidden_states=conditions, return_dict=False)[0]
        if is_guided:
            away, towards = prediction.chunk(2)
            prediction = away + sampling.guidance * (towards - away)
        latents = solver.step(prediction, timestep, latents, return_dict=False)[0]
    return _decode(sampler.vae, latents)


def initial_latents(seeds: Sequence[int], shape: tuple[int, ...]) -> Float[Tensor, "images channels height width"]:
    """Returns each seed's own noise, drawn on the CPU: the same on every device and in every batch."""
    return torch.stack([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])


def default_batch_size(device: torch.device) -> int:
    return DEFAULT_BATCH.get(device.type, 8)


def render_images(
    requests: Sequence[ImageRequest],
    is_missing: Callable[[ImageRequest], bool],
    *,
    sampler: Sampler,
    batch_size: int,
    save: Callable[[list[tuple[ImageRequest, Image.Image]]], None],
    say: Callable[[str], None],
) -> None:
    """Renders the missing images and hands them to `save`, one batch after the other.

    Batches are fixed parts of the whole list: one with a missing image is drawn again in its old shape, so that
    work resumed after a crash ends in the same bytes. Too little GPU memory: the batch is halved.
    """
    limit = batch_size
    for start in range(0, len(requests), batch_size):
        chunk = requests[start : start + batch_size]
        if not any(map(is_missing, chunk)):
            continue
        images, limit = _sample_within_memory(sampler, chunk, limit, say)
        save([(request, image) for request, image in zip(chunk, images, strict=True) if is_missing(request)])


def _sample_within_memory(
    sampler: Sampler, chunk: Sequence[ImageRequest], limit: int, say: Callable[[str], None]
) -> tuple[list[Image.Image], int]:
    """Returns the chunk's images and the batch size that fits."""
    while True:
        try:
            parts = [chunk[i : i + limit] for i in range(0, len(chunk), limit)]
            batches = [sample_images(sampler, [r.prompt.text for r in p], [r.seed for r in p]) for p in parts]
            return [image for batch in batches for image in batch], limit
        except torch.OutOfMemoryError:
            limit = min(limit, len(chunk)) // 2
        if limit == 0:
            raise UserError(
                f"not enough GPU memory for one image of {sampler.sampling.size_px} px; "
                "use model.dtype=fp16 or a smaller model.size_px"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"not enough GPU memory: going on with {limit} images per batch")


def _decode(vae: "AutoencoderKL", latents: Float[Tensor, "images channels height width"]) -> list[Image.Image]:
    with torch.no_grad():
        parts = [vae.decode(part / vae.config.scaling_factor).sample for part in latents.split(DECODE_BATCH)]
    pixels = torch.cat(parts).float()
    is_finite = pixels.flatten(1).isfinite().all(dim=1)
    if not is_finite.all():
        num_broken = int((~is_finite).sum())
        warnings.warn(
            f"{num_broken} of {len(pixels)} images are not finite and become black: the adapter has diverged, or the "
            "model overflows in fp16 (try model.dtype=fp32)",
            stacklevel=2,
        )
        pixels = torch.where(is_finite.view(-1, 1, 1, 1), pixels, torch.full_like(pixels, -1.0))
    pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(array) for array in np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())]
