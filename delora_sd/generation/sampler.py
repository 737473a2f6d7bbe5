"""Prompts and seeds to pictures. A picture depends on weights, prompt and seed, never on its batch.

Knows no adapters: whoever calls has merged them into the UNet.
"""

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from delora_sd.diffusion.cache import encode_prompts
from delora_sd.diffusion.parts import Base, load_text_encoder
from delora_sd.errors import UserError
from delora_sd.generation.requests import ImageRequest, SamplingSettings

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel

DEFAULT_BATCH = {"cpu": 8, "mps": 4, "cuda": 32, "xpu": 16}
"""Images per batch where none is asked for; what does not fit a GPU is halved."""

DECODE_BATCH = 8
"""Latents per forward of the VAE's decoder, which at 512 px needs ten times the UNet's memory per image."""


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Everything that turns (prompt, seed) into a picture."""

    unet: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    scheduler_config: Mapping[str, Any]
    """The base's noise schedule; sampled with DPM-Solver++ (multistep, second order)."""
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


def sample_images(sampler: Sampler, texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """Returns one picture per (text, seed), drawn in one batch with classifier-free guidance."""
    unet, sampling, pipeline = sampler.unet, sampler.sampling, build_pipeline(sampler)
    side = sampling.size_px // pipeline.vae_scale_factor
    noise = initial_latents(seeds, (unet.config.in_channels, side, side))
    embeddings = torch.stack([sampler.embeddings[text] for text in texts]).to(unet.device, unet.dtype)
    negative = sampler.embeddings[sampling.negative_prompt].to(unet.device, unet.dtype)
    latents = pipeline(
        prompt_embeds=embeddings,
        negative_prompt_embeds=negative.expand_as(embeddings),
        latents=noise.to(unet.device, unet.dtype),
        num_inference_steps=sampling.num_inference_steps,
        guidance_scale=sampling.guidance,
        height=sampling.size_px,
        width=sampling.size_px,
        output_type="latent",
    ).images
    return _decode(sampler.vae, latents)


def build_pipeline(sampler: Sampler) -> "StableDiffusionPipeline":
    """Returns the sampler's parts as diffusers' pipeline; captions go in as embeddings."""
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        unet=sampler.unet,
        vae=sampler.vae,
        scheduler=DPMSolverMultistepScheduler.from_config(sampler.scheduler_config),
        text_encoder=None,
        tokenizer=None,
        safety_checker=None,  # it blackens pictures and would falsify scores; the base's licence still applies
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


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
    """Renders the missing pictures and hands them to `save`, one batch after the other.

    Batches are fixed parts of the whole list: one with a missing picture is drawn again in its old shape, so that
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
    """Returns the chunk's pictures and the batch size that fits."""
    while True:
        try:
            parts = [chunk[i : i + limit] for i in range(0, len(chunk), limit)]
            batches = [sample_images(sampler, [r.prompt.text for r in p], [r.seed for r in p]) for p in parts]
            return [image for batch in batches for image in batch], limit
        except torch.OutOfMemoryError:
            limit = min(limit, len(chunk)) // 2
        if limit == 0:
            raise UserError(
                f"not enough GPU memory for one picture of {sampler.sampling.size_px} px; "
                "use model.dtype=fp16 or a smaller model.size_px"
            )
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        say(f"not enough GPU memory: going on with {limit} pictures per batch")


def _decode(vae: "AutoencoderKL", latents: Float[Tensor, "images channels height width"]) -> list[Image.Image]:
    with torch.no_grad():
        parts = [vae.decode(part / vae.config.scaling_factor).sample for part in latents.split(DECODE_BATCH)]
    pixels = torch.cat(parts).float()
    is_finite = pixels.flatten(1).isfinite().all(dim=1)
    if not is_finite.all():
        num_broken = int((~is_finite).sum())
        warnings.warn(
            f"{num_broken} of {len(pixels)} pictures are not finite and become black: the adapter has diverged, or the "
            "model overflows in fp16 (try model.dtype=fp32)",
            stacklevel=2,
        )
        pixels = torch.where(is_finite.view(-1, 1, 1, 1), pixels, torch.full_like(pixels, -1.0))
    pixels = ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8)
    return [Image.fromarray(array) for array in np.ascontiguousarray(pixels.permute(0, 2, 3, 1).cpu().numpy())]
