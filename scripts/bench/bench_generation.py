#!/usr/bin/env python
"""Speed of generation: images/s on disk, ours beside diffusers' own pipeline at the same batch and settings.

    python scripts/bench/bench_generation.py                                      # the miniature on this machine
    python scripts/bench/bench_generation.py --base sd15-architecture --batches 1 8 32      # a GPU, 512 px

Both draw the same prompts with DPM-Solver++, guidance 7.5, and write PNG files; rounds alternate, medians count.
Speed does not depend on the weights, so `sd15-architecture` needs no download.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from diffusers import StableDiffusionPipeline

from delora_eval.benchmark.run.cell.profile import decoder_flops, matrix_rate, unet_flops
from delora_sd.data.prompts import load_prompts
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.noise.solver import build_solver
from delora_sd.diffusion.parts import load_text, resolve_device, resolve_dtype
from delora_sd.generation.images import ImageWriter
from delora_sd.generation.model import LoadedModel, load_model
from delora_sd.generation.requests import SamplingSettings, plan_requests
from delora_sd.generation.sampler import render_images
from delora_sd.settings import ModelConfig
from delora_sd.training.record.manifest import device_name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="miniature")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--size", type=int, help="pixels; none: what the base was trained at")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 8])
    parser.add_argument("--steps", type=int, default=25, help="sampling steps")
    parser.add_argument("--rounds", type=int, default=3, help="timed rounds of two batches each, after a warm-up")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet (of both)")
    arguments = parser.parse_args()
    base = find_base(ModelConfig(base=arguments.base, offline=True, size_px=arguments.size))
    device = resolve_device()
    dtype = resolve_dtype(arguments.dtype, device)
    model = load_model(base, device=device, dtype=dtype, is_compiled=arguments.compile)
    print(f"{device_name()}; torch {torch.__version__}; {dtype}")
    print(f"{base.name}, {base.size_px} px, {arguments.steps} steps")
    flops = 2 * arguments.steps * unet_flops(base) + decoder_flops(base)  # 2: classifier-free guidance
    print(f"floor: {matrix_rate(device, dtype) / flops:.2f} images/s, the operations at the rate of a large product\n")
    print(f"{'batch':>5} {'diffusers images/s':>21} {'ours':>8} {'ratio':>6} {'peak GB':>8}")
    for batch_size in arguments.batches:
        theirs, ours = time_both(model, base, batch_size, arguments)
        print(f"{batch_size:5} {theirs:21.3f} {ours:8.3f} {ours / theirs:6.2f} {_peak_gb(device):>8}", flush=True)


def time_both(model: LoadedModel, base: Base, batch_size: int, arguments: argparse.Namespace) -> tuple[float, float]:
    """Returns images/s of diffusers' pipeline and of ours; their rounds alternate, so both see the same machine."""
    prompts = load_prompts(("dreambooth",), identifier="qwe", class_word="dog", is_live=True)
    texts = [prompts[i % len(prompts)].text for i in range(2 * batch_size)]
    with tempfile.TemporaryDirectory() as folder:
        draw = [
            lambda: draw_with_diffusers(model, base, texts, batch_size, arguments.steps, Path(folder)),
            lambda: draw_with_ours(model, base, len(texts), batch_size, arguments.steps, Path(folder)),
        ]
        seconds = [[_seconds(each) for each in draw] for _ in range(arguments.rounds + 1)][1:]
    medians = [statistics.median(column) for column in zip(*seconds, strict=True)]
    return len(texts) / medians[0], len(texts) / medians[1]


def draw_with_diffusers(
    model: LoadedModel, base: Base, texts: list[str], batch_size: int, num_steps: int, folder: Path
) -> None:
    """As its documentation does it: prompts in, images out, saved one after the other."""
    tokenizer, encoder = load_text(base, device=model.denoiser.device, dtype=model.denoiser.dtype)
    pipeline = StableDiffusionPipeline(
        unet=model.denoiser,
        vae=model.vae,
        text_encoder=encoder,
        tokenizer=tokenizer,
        scheduler=build_solver(base.schedule, num_steps),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    for start in range(0, len(texts), batch_size):
        chunk = texts[start : start + batch_size]
        images = pipeline(
            chunk, num_inference_steps=num_steps, guidance_scale=7.5, height=base.size_px, width=base.size_px
        ).images
        for i, image in enumerate(images):
            image.save(folder / f"diffusers-{start + i}.png")


def draw_with_ours(
    model: LoadedModel, base: Base, num_images: int, batch_size: int, num_steps: int, folder: Path
) -> None:
    """As `delora-sd generate` does it, without the adapter: merging costs nothing per image."""
    prompts = load_prompts(("dreambooth",), identifier="qwe", class_word="dog", is_live=True)
    sampling = SamplingSettings(num_inference_steps=num_steps, guidance=7.5, negative_prompt="", size_px=base.size_px)
    requests = plan_requests(folder, prompts, range(1 + num_images // len(prompts)))[:num_images]
    sampler = model.sampler([request.prompt.text for request in requests], sampling)
    record = {"random_weights": base.has_random_weights}
    with ImageWriter(lambda records: None) as writer:
        render_images(
            requests,
            lambda request: True,
            sampler=sampler,
            batch_size=batch_size,
            save=lambda batch: writer.write(
                [(r.file, image, record | {"prompt": r.prompt.text, "seed": r.seed}) for r, image in batch]
            ),
            say=print,
        )


def _seconds(draw: Callable[[], None]) -> float:
    """Returns how long it takes until the last file is on disk."""
    began = time.perf_counter()
    draw()
    return time.perf_counter() - began


def _peak_gb(device: torch.device) -> str:
    if device.type != "cuda":
        return "-"
    peak = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return f"{peak:.1f}"


if __name__ == "__main__":
    main()
