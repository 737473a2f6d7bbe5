"""Prompts and seeds to images. An image depends on weights, prompt and seed, never on its batch.

Knows no adapters: whoever calls has merged them into the denoiser.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from delora_sd.diffusion.cache import cast_conditions, stack_conditions, whole_sizes
from delora_sd.diffusion.families.family import Base, Condition, Conditions, Solver
from delora_sd.errors import UserError
from delora_sd.generation.requests import ImageRequest, SamplingSettings
from delora_sd.generation.text_once import projecting_text_once
from delora_sd.stopwatch import time_of

DEFAULT_BATCH = {"cpu": 8, "mps": 4, "cuda": 32, "xpu": 16}
"""Images per batch where none is asked for; what does not fit a GPU is halved."""

DECODE_BATCH = 8
"""Latents per forward of the VAE's decoder, which at 512 px needs ten times a UNet's memory per image."""


@contextmanager
def _prompts_alone(_requests: Sequence[ImageRequest]) -> Iterator[None]:
    yield


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Everything that turns (prompt, seed) into an image."""

    base: Base
    denoiser: nn.Module
    vae: nn.Module
    conditions: Mapping[str, Condition]
    """Of every prompt, and of the negative prompt."""
    sampling: SamplingSettings
    drawing: Callable[[Sequence[ImageRequest]], AbstractContextManager[None]] = _prompts_alone
    """Is entered around each batch: what conditions its images besides their prompts."""
    make_solver: Callable[..., Solver] | None = None
    """As `Family.solver`; none: the family's own."""


@time_of("drawing")
@torch.no_grad()
def sample_images(sampler: Sampler, texts: Sequence[str], seeds: Sequence[int]) -> list[Image.Image]:
    """Returns one image per (text, seed), drawn in one batch with classifier-free guidance (Ho & Salimans 2022)."""
    base, denoiser, sampling = sampler.base, sampler.denoiser, sampler.sampling
    height, width = (side // base.latent_factor for side in sampling.height_and_width)
    latents = initial_latents(seeds, (base.latent_channels, height, width)).to(denoiser.device, denoiser.dtype)
    is_guided = sampling.guidance > 1
    conditions = _conditions(sampler, [sampling.negative_prompt] * len(texts) if is_guided else [], texts)
    make_solver = sampler.make_solver or base.family.solver
    solver = make_solver(base, sampling.num_inference_steps, device=denoiser.device)
    with projecting_text_once(denoiser):
        for position, time in enumerate(solver.times):
            inputs = torch.cat([latents, latents]) if is_guided else latents
            prediction = base.family.predict(denoiser, inputs, time, conditions)
            if is_guided:
                away, towards = prediction.chunk(2)
                prediction = away + sampling.guidance * (towards - away)
            latents = solver.step(prediction, position, latents)
    return _decode(sampler, latents)


def _conditions(sampler: Sampler, negatives: Sequence[str], texts: Sequence[str]) -> Conditions:
    """Returns the conditions of the denoiser's batch: the negative prompt's for every image, if any, then the texts."""
    denoiser, own = sampler.denoiser, [sampler.conditions[text] for text in (*negatives, *texts)]
    stacked = stack_conditions(own, whole_sizes(*sampler.sampling.height_and_width, len(own)))
    return cast_conditions({name: value.to(denoiser.device) for name, value in stacked.items()}, denoiser.dtype)


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
            batches = [_sample_requests(sampler, part) for part in parts]
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


def _sample_requests(sampler: Sampler, requests: Sequence[ImageRequest]) -> list[Image.Image]:
    with sampler.drawing(requests):
        return sample_images(sampler, [request.prompt.text for request in requests], [r.seed for r in requests])


@time_of("decoding")
def _decode(sampler: Sampler, latents: Float[Tensor, "images channels height width"]) -> list[Image.Image]:
    vae, decode = sampler.vae, sampler.base.family.decode_latents
    with torch.no_grad():
        parts = [decode(part.to(vae.dtype), vae) for part in latents.split(DECODE_BATCH)]
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
