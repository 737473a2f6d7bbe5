#!/usr/bin/env python
"""What every judge costs at full size, with random weights: seconds an image and peak memory, one process each.

python scripts/bench/bench_judges.py                   # the wide set on 8 images of the miniature
python scripts/bench/bench_judges.py masc dinov2/vit-l-14 --images 4
python scripts/bench/bench_judges.py --together        # all in one process, as a benchmark holds them
"""

import argparse
import multiprocessing
import resource
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from delora_eval.scoring.judges.family import SETS, judge_names

GIB = 2**30


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("judges", nargs="*", default=list(SETS["wide"]))
    parser.add_argument("--images", type=int, default=8)
    parser.add_argument("--together", action="store_true")
    arguments = parser.parse_args()
    names = judge_names(arguments.judges)
    rows = [names] if arguments.together else [(name,) for name in names]
    context = multiprocessing.get_context("spawn")
    print("judge                 wall s   s an image   peak GiB")
    for row in rows:
        with context.Pool(1) as pool:
            wall, costs, peak = pool.apply(measure, (row, arguments.images))
        label = "together" if arguments.together else row[0]
        shown = ", ".join(f"{cost['seconds'] / cost['images']:.2f}" for cost in costs.values())
        print(f"{label:20} {wall:7.1f}   {shown:>11}   {peak:8.1f}", flush=True)
    return 0


def measure(names: tuple[str, ...], num_images: int) -> tuple[float, dict, float]:
    """Returns (wall seconds with loading, costs per encoder, peak memory in GiB) of scoring random images."""
    from delora_eval.scoring.record.costs import read_costs
    from delora_eval.scoring.score import score
    from delora_eval.settings import EncoderConfig, FamilyConfig, ScoreConfig

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw(folder / "dog", num_images // 2)
        draw(folder / "generated", num_images)
        (folder / "prompts.txt").write_text("a dog in the snow\n" * num_images)
        began = time.perf_counter()
        score(
            ScoreConfig(
                reference=str(folder / "dog"),
                generated=str(folder / "generated"),
                prompts=str(folder / "prompts.txt"),
                class_word="dog",
                judges=FamilyConfig(set=names),
                encoders=EncoderConfig(random_weights=True, batch_size=4),
            )
        )
        costs = read_costs(folder / "generated" / "scores.jsonl")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024) / GIB
    return time.perf_counter() - began, costs, peak


def draw(folder: Path, count: int) -> None:
    """Random images of 512 px, and masks of their upper half."""
    (folder / "masks").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).resize((512, 512)).save(folder / f"{index:02d}.png")
        mask = np.zeros((512, 512), dtype=np.uint8)
        mask[:256] = 255
        Image.fromarray(mask).save(folder / "masks" / f"{index:02d}.png")


if __name__ == "__main__":
    sys.exit(main())
