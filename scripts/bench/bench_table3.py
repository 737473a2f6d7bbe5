#!/usr/bin/env python
"""One row of Table 3 from measured parts: 30 subjects trained, 3000 images drawn and scored; each beside its limit.

    python scripts/bench/bench_table3.py                                                        # the miniature, a CPU
    python scripts/bench/bench_table3.py --base sd15-architecture --dtype bf16 --pack 30        # a GPU, 512 px

Nothing is trained to the end: a step, an image and a score are timed and multiplied; every part is shown. The limit is
the part's floating-point operations at the rate of a large product on this device, measured in the same run: the UNet
forward and backward for training, two UNet forwards per sampling step and the VAE's decoder for an image, the encoders
for a score. What lies between limit and measurement is launching, memory traffic, reading and writing files.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from bench_generation import draw_with_ours
from bench_packs import time_pack
from delora_eval.benchmark.run.cell.profile import decoder_flops, matrix_rate, unet_flops
from delora_eval.scoring.judges.embedding import Judge, embed_images
from delora_eval.scoring.judges.protocols import PROTOCOLS, Protocol
from delora_eval.settings import EncoderConfig
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import resolve_device, resolve_dtype
from delora_sd.generation.model import load_model
from delora_sd.settings import ModelConfig
from delora_sd.training.record.manifest import device_name

SUBJECTS, PROMPTS, IMAGES_PER_PROMPT = 30, 25, 4
TRAINING_STEPS = 1400
"""Where the paper finds the best scores (Sec. 3.4)."""
SAMPLING_STEPS = 25
LOADING_S = 60.0
"""Seconds allowed for start, loading and caching of a row; measured only as part of a whole benchmark."""


@dataclass(frozen=True)
class Part:
    """One part of the row."""

    name: str
    count: int
    """Samples or images."""
    seconds: float
    """Measured, of one."""
    flops: float
    """Of one."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="miniature")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pack", type=int, default=8, help="adapters trained together")
    parser.add_argument("--steps", type=int, default=8, help="timed training steps")
    parser.add_argument("--batch", type=int, default=1, help="photos per step and adapter")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--draw-batch", type=int, default=8, help="images per sampling batch")
    parser.add_argument("--tflops", type=float, help="rate for the limit; none: a large product is timed")
    parser.add_argument("--quantization", default="none", help="of the frozen base: none, int8, int4")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    arguments = parser.parse_args()
    base = find_base(ModelConfig(base=arguments.base, offline=True))
    dtype = resolve_dtype(arguments.dtype, resolve_device())
    print(f"{device_name()}; torch {torch.__version__}; {base.name}, {base.size_px} px, pack of {arguments.pack}\n")
    training, memory = measure_training(base, arguments)
    parts = [training, measure_drawing(base, arguments), measure_scoring(base, arguments.draw_batch)]
    print_table(parts, arguments.tflops or matrix_rate(resolve_device(), dtype) / 1e12)
    print(f"\npeak memory while training: {memory:.1f} GB")


def print_table(parts: list[Part], tflops: float) -> None:
    limits = {part.name: part.count * part.flops / (tflops * 1e12) for part in parts}
    print(f"| part | measured, min | limit at {tflops:.3g} TFLOP/s, min |\n| --- | ---: | ---: |")
    for part in parts:
        print(f"| {part.name} | {part.count * part.seconds / 60:.1f} | {limits[part.name] / 60:.1f} |")
    print(f"| start, load and cache (an allowance) | {LOADING_S / 60:.1f} | - |")
    total = LOADING_S + sum(part.count * part.seconds for part in parts)
    print(f"| one row of Table 3, one seed | {total / 60:.1f} | {sum(limits.values()) / 60:.1f} |")


def measure_training(base: Base, arguments: argparse.Namespace) -> tuple[Part, float]:
    """Returns the part and the peak memory in GB."""
    samples = SUBJECTS * TRAINING_STEPS * arguments.batch * 2  # as many class images: prior preservation
    seconds_per_step, memory = time_pack(arguments.pack, arguments)
    per_sample = seconds_per_step / (arguments.pack * arguments.batch)
    # Frozen weights get no gradient: backward costs one more forward.
    return Part(f"train {samples:,} samples", samples, per_sample, 2 * unet_flops(base)), memory


def measure_drawing(base: Base, arguments: argparse.Namespace) -> Part:
    """Seconds per image on disk: the median of three batches after a warm-up."""
    device = resolve_device()
    model = load_model(base, device=device, dtype=resolve_dtype(arguments.dtype, device))
    size = arguments.draw_batch
    with tempfile.TemporaryDirectory() as folder:
        seconds = _median(lambda: draw_with_ours(model, base, size, size, SAMPLING_STEPS, Path(folder)))
    images = SUBJECTS * PROMPTS * IMAGES_PER_PROMPT
    flops = 2 * SAMPLING_STEPS * unet_flops(base) + decoder_flops(base)  # 2: classifier-free guidance
    return Part(f"draw {images:,} images", images, seconds / size, flops)


def measure_scoring(base: Base, num_images: int) -> Part:
    """Seconds per image of the protocol's encoders; random weights take as long as trained ones."""
    protocol = PROTOCOLS["miniature" if base.name == "miniature" else "dreambooth"]
    judge = Judge(config=EncoderConfig(random_weights=base.name != "miniature", offline=True))
    with tempfile.TemporaryDirectory() as folder:
        batches = iter(_noise_images(Path(folder) / str(number), num_images, base.size_px) for number in range(5))
        with FlopCounterMode(display=False) as counter:
            _score(judge, protocol, next(batches))
        files = list(batches)  # written before the clock starts
        seconds = _median(lambda: _score(judge, protocol, files.pop()))
    images = SUBJECTS * PROMPTS * IMAGES_PER_PROMPT
    return Part(f"score {images:,} images", images, seconds / num_images, counter.get_total_flops() / num_images)


def _noise_images(folder: Path, count: int, side: int) -> list[Path]:
    folder.mkdir()
    files = [folder / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        Image.effect_noise((side, side), 10.0 + int(folder.name) + i).convert("RGB").save(file)
    return files


def _score(judge: Judge, protocol: Protocol, files: list[Path]) -> None:
    embed_images(judge, files, [protocol.dino, protocol.clip])


def _median(work: Callable[[], None]) -> float:
    """Returns the median seconds of three calls after one that warms up."""
    seconds = []
    for _ in range(4):
        began = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:])


if __name__ == "__main__":
    main()
