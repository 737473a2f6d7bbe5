#!/usr/bin/env python
"""A base at its full size with random weights through the main program: two training steps and one image.

    python scripts/bench/smoke_full_size.py                    # SD 1.5: about five minutes and 12 GB on two CPU cores
    python scripts/bench/smoke_full_size.py --base sdxl-architecture
    python scripts/bench/smoke_full_size.py --photos ~/rex     # your own photos instead of drawn ones

No download. Its images mean nothing (every output is stamped RANDOM); sizes, counts, seconds and memory do.
"""

import argparse
import resource
import sys
import tempfile
import time
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from delora_sd.adapters.exchange.stored.formats import load_adapter
from delora_sd.files.run_folder import RunFolder
from delora_sd.generation.generate import generate
from delora_sd.settings import DataConfig, GenerateConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.recipe import train

COUNTED_BASE = "sd15-architecture"
"""Of the others nobody has published a count."""

EXPECTED_LAYERS = 128
EXPECTED_PARAMETERS = 3_188_864
"""DeLoRA r 16 on to_q, to_k, to_v, to_out.0 of SD 1.5: 16 * (99,456 + 99,840) + 128."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default=COUNTED_BASE)
    parser.add_argument("--photos", type=Path, help="folder of photos; none: four drawn ones")
    parser.add_argument("--inference-steps", type=int, default=2)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        photos = arguments.photos or draw_photos(Path(folder) / "photos")
        run = RunFolder(Path(folder) / "run")
        config = TrainConfig(
            output_dir=str(run.path),
            model=ModelConfig(base=arguments.base, offline=True),
            data=DataConfig(photos=str(photos), class_word="toy"),
            training=TrainingConfig(num_steps=2, prior_weight=0.0, log_every=1, export_check="tensors"),
        )
        timed("train two steps", lambda: train(config))
        is_right = check_adapter(run, is_counted=arguments.base == COUNTED_BASE)
        request = GenerateConfig(
            run=str(run.path),
            prompts=("a {identifier} {class_word} on the beach",),
            images_per_prompt=1,
            num_inference_steps=arguments.inference_steps,
        )
        images = timed(f"one image, {arguments.inference_steps} steps", lambda: generate(request))
        print(f"image: {sorted(images.glob('*.png'))[0].name}")
    print(f"peak memory: {peak_memory_gb():.1f} GB")
    return 0 if is_right else 1


def draw_photos(folder: Path) -> Path:
    """Writes four 512 px images of a ball in different places."""
    folder.mkdir(parents=True)
    for index in range(4):
        image = Image.new("RGB", (512, 512), (200 - 30 * index, 220, 160 + 20 * index))
        left = 60 + 70 * index
        ImageDraw.Draw(image).ellipse((left, 150, left + 220, 370), fill=(200, 60, 40))
        image.save(folder / f"{index:02d}.png")
    return folder


def timed(what: str, work):
    began = time.monotonic()
    result = work()
    print(f"{what}: {time.monotonic() - began:.1f} s, loading included", flush=True)
    return result


def check_adapter(run: RunFolder, *, is_counted: bool) -> bool:
    adapter = load_adapter(run.adapter)
    layers, parameters = len(adapter.specs()), adapter.num_parameters()
    if not is_counted:
        print(f"layers: {layers}; trainable: {parameters:,}")
        return layers > 0
    print(
        f"layers: {layers} (expected {EXPECTED_LAYERS}); trainable: {parameters:,} (expected {EXPECTED_PARAMETERS:,})"
    )
    return (layers, parameters) == (EXPECTED_LAYERS, EXPECTED_PARAMETERS)


def peak_memory_gb() -> float:
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9


if __name__ == "__main__":
    sys.exit(main())
