#!/usr/bin/env python
"""One row of Table 3 from measured parts: 30 subjects trained, 3000 pictures drawn and scored; and the limit.

    python scripts/bench_table3.py                                                        # the miniature, a CPU
    python scripts/bench_table3.py --base sd15-architecture --dtype bf16 --pack 30 --tflops 788      # a GPU, 512 px

Nothing is trained to the end: a step, a picture and a score are timed and multiplied; every part is shown. The limit
counts the UNet's products alone (forward + backward for training, two forwards per sampling step) at `--tflops`.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch
from bench_generation import draw_with_ours
from bench_packs import time_pack
from delora_eval.embedding import Judge, embed_pictures
from delora_eval.protocols import PROTOCOLS
from delora_eval.settings import EncoderConfig
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from delora_sd.diffusion.bases import Base, find_base
from delora_sd.diffusion.parts import load_unet, resolve_device, resolve_dtype
from delora_sd.generation.model import load_model
from delora_sd.settings import ModelConfig
from delora_sd.training.manifest import device_name

SUBJECTS, PROMPTS, IMAGES_PER_PROMPT = 30, 25, 4
TRAINING_STEPS = 1400
"""Where the paper finds the best scores (Sec. 3.4)."""
SAMPLING_STEPS = 25
LOADING_S = 60.0
"""Seconds allowed for start, loading and caching of a row; measured only as part of a whole benchmark."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="miniature")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--pack", type=int, default=8, help="adapters trained together")
    parser.add_argument("--steps", type=int, default=8, help="timed training steps")
    parser.add_argument("--batch", type=int, default=1, help="photos per step and adapter")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--draw-batch", type=int, default=8, help="pictures per sampling batch")
    parser.add_argument("--tflops", type=float, help="this device's measured rate of large products, for the limit")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    arguments = parser.parse_args()
    base = find_base(ModelConfig(base=arguments.base, offline=True))
    print(f"{device_name()}; torch {torch.__version__}; {base.name}, {base.size_px} px, pack of {arguments.pack}\n")
    samples = SUBJECTS * TRAINING_STEPS * arguments.batch * 2  # as many class images: prior preservation
    pictures = SUBJECTS * PROMPTS * IMAGES_PER_PROMPT
    seconds_per_step, memory = time_pack(arguments.pack, arguments)
    parts = {
        f"train {samples:,} samples": samples * seconds_per_step / (arguments.pack * arguments.batch),
        f"draw {pictures:,} pictures": pictures * time_picture(base, arguments),
        f"score {pictures:,} pictures": pictures * time_score(base, arguments.draw_batch),
        "start, load and cache (allowance)": LOADING_S,
    }
    for name, seconds in parts.items():
        print(f"{name:36} {seconds / 60:9.1f} min")
    print(
        f"{'one row of Table 3 (one seed)':36} {sum(parts.values()) / 60:9.1f} min    peak while training: {memory} GB"
    )
    if arguments.tflops:
        forward = count_forward_flops(base)
        limit = forward * (2 * samples + 2 * SAMPLING_STEPS * pictures) / (arguments.tflops * 1e12)
        print(f"{'arithmetic limit':36} {limit / 60:9.1f} min    at {arguments.tflops:g} TFLOP/s")


def time_picture(base: Base, arguments: argparse.Namespace) -> float:
    """Returns seconds per picture on disk, the median of three batches after a warm-up."""
    device = resolve_device()
    model = load_model(base, device=device, dtype=resolve_dtype(arguments.dtype, device))
    seconds = []
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(4):
            began = time.perf_counter()
            draw_with_ours(model, base, arguments.draw_batch, arguments.draw_batch, SAMPLING_STEPS, Path(folder))
            seconds.append(time.perf_counter() - began)
    return statistics.median(seconds[1:]) / arguments.draw_batch


def time_score(base: Base, num_pictures: int) -> float:
    """Returns seconds per picture of all encoders of the protocol; random weights take as long as trained ones."""
    protocol = PROTOCOLS["miniature" if base.name == "miniature" else "dreambooth"]
    judge = Judge(config=EncoderConfig(random_weights=base.name != "miniature", offline=True))
    with tempfile.TemporaryDirectory() as folder:
        rounds = []
        for number in range(4):
            files = [Path(folder) / f"{number}-{i}.png" for i in range(num_pictures)]
            for i, file in enumerate(files):
                Image.effect_noise((base.size_px, base.size_px), 10.0 + number + i).convert("RGB").save(file)
            began = time.perf_counter()
            embed_pictures(judge, files, [protocol.dino, protocol.clip])
            rounds.append(time.perf_counter() - began)
    return statistics.median(rounds[1:]) / num_pictures


def count_forward_flops(base: Base) -> float:
    """Returns the floating-point operations of one sample's UNet forward; the frozen backward needs as many again."""
    unet = load_unet(base, device="meta", dtype=torch.float32)
    side = unet.config.sample_size
    with FlopCounterMode(display=False) as counter:
        unet(
            torch.zeros(1, unet.config.in_channels, side, side, device="meta"),
            torch.zeros(1, device="meta"),
            torch.zeros(1, 77, unet.config.cross_attention_dim, device="meta"),
        )
    return float(counter.get_total_flops())


if __name__ == "__main__":
    main()
