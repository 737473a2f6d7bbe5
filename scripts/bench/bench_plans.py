#!/usr/bin/env python
"""Seconds and memory of a plan of thousands of cells: planning, status, resuming, reporting; no cell is computed.

    python scripts/bench/bench_plans.py                                    # 10,080 cells that have ended
    python scripts/bench/bench_plans.py --against ../other-checkout        # beside another state that has this script
    python scripts/bench/bench_plans.py --seeds 1 7                        # 1,440 and 10,080: is it linear?

The folder holds what 4 methods x 12 rates x 30 subjects x seeds would have written, with invented scores and one image
a cell. Every command runs in a process of its own, checkouts in turn; seconds are those of its own CPU time, the import
of Python's packages among them, peak memory is the operating system's.
"""

import argparse
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
METHODS = ("delora", "lora", "normalized_lora", "multiplicative_delora")
FACTORS = tuple(round(0.1 * 1.4**power, 4) for power in range(12))
SCORES = ("dino", "clip_i", "clip_t", "context_accuracy")
PROMPTS = 25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--against", type=Path, help="another checkout of this repository")
    parser.add_argument("--seeds", type=int, nargs="+", default=[7], help="1,440 cells for each seed")
    parser.add_argument("--waiting", action="store_true", help="an empty folder: nothing has been computed yet")
    parser.add_argument("--limit", type=int, default=600, help="seconds of CPU after which a command is given up")
    parser.add_argument("--only", nargs="*", default=[], help="some of the commands")
    parser.add_argument("--run", nargs=2, metavar=("COMMAND", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        command, output = arguments.run[0], Path(arguments.run[1])
        if command == "write":
            write_benchmark(output, arguments.seeds[0], is_finished=not arguments.waiting)
        else:
            measure(COMMANDS[command], output)
        return
    checkouts = [ROOT] + ([arguments.against.resolve()] if arguments.against else [])
    names = arguments.only or [*COMMANDS, "resume"]  # the first resume writes the report, the second has nothing to do
    print("| command | cells | " + " | ".join(f"{_commit(path)}, s | MB" for path in checkouts) + " |")
    print("| --- | ---: |" + " ---: | ---: |" * len(checkouts))
    for num_seeds in arguments.seeds:
        with tempfile.TemporaryDirectory() as folder:
            outputs = {path: Path(folder) / str(number) / "large" for number, path in enumerate(checkouts)}
            for path, output in outputs.items():
                options = ["--seeds", str(num_seeds)] + (["--waiting"] if arguments.waiting else [])
                _start(path, "write", output, options=options).check_returncode()
            for name in names:
                found = [_in_a_process(path, name, output, arguments.limit) for path, output in outputs.items()]
                print(f"| {name} | {1440 * num_seeds:,} | " + " | ".join(found) + " |", flush=True)


def grid(output: Path, num_seeds: int):
    """Returns the settings of the benchmark."""
    from delora_eval.benchmark.settings import BenchmarkConfig
    from delora_sd.config.load import from_dict

    values = {
        "output_dir": str(output),
        "title": "A large plan",
        "train": {"model.base": "miniature", "data.dataset": "miniature", "training.num_steps": 200},
        "methods": {name: {"optimizer.lr": 1e-2} for name in METHODS},
        "factors": list(FACTORS),
        "seeds": list(range(num_seeds)),
        "protocol": ["miniature"],
        "generate": {"images_per_prompt": 1},
        "drift": False,
        "pack": "8",
    }
    return from_dict(BenchmarkConfig, values, source="bench_plans")


def plan(folder: Path) -> None:
    """What `--dry-run` does but for the probe, which trains a piece of one pack whatever the number of cells."""
    from delora_eval.benchmark.run.outlook import dry_run

    dry_run._estimate = lambda *_: "no probe"
    dry_run.find_pack_size = lambda *_, **__: 8
    dry_run.print_plan(_written(folder))


def resume(folder: Path) -> None:
    """The same benchmark again, every cell of it ended: the door, the plan, the states, the report's fingerprint."""
    from delora_eval.benchmark.run.workers.launchers import run_benchmark

    run_benchmark(_written(folder), lambda config: None)


def status(folder: Path) -> None:
    from delora_eval.benchmark.run.outlook.status import print_status
    from delora_eval.benchmark.settings import StatusConfig

    print_status(StatusConfig(folder=str(folder)))


def report(folder: Path) -> None:
    from delora_eval.benchmark.folder import BenchmarkFolder
    from delora_eval.benchmark.report.report import report_benchmark

    benchmark = BenchmarkFolder(folder)
    benchmark.inputs.unlink(missing_ok=True)
    page = report_benchmark(benchmark)
    print(f"page: {page.stat().st_size / 1e6:.1f} MB")


COMMANDS: dict[str, Callable[[Path], None]] = {"plan": plan, "status": status, "report": report, "resume": resume}


def measure(command: Callable[[Path], None], folder: Path) -> None:
    """Runs the command; the last line on the error stream is its cost."""
    command(folder)
    usage = resource.getrusage(resource.RUSAGE_SELF)
    cost = {"seconds": usage.ru_utime + usage.ru_stime, "mb": usage.ru_maxrss / 1000}
    print(json.dumps(cost), file=sys.stderr)


def write_benchmark(output: Path, num_seeds: int, *, is_finished: bool) -> int:
    """Writes the folder of the benchmark; returns the number of its cells. Invented scores, no training."""
    from delora_eval.benchmark.folder import open_folder, remember_grid, remember_plan
    from delora_eval.benchmark.grid import test_cells
    from delora_eval.benchmark.settings import with_absolute_places

    config = with_absolute_places(grid(output, num_seeds))
    folder, cells = open_folder(config), test_cells(config)
    remember_grid(folder, config)
    remember_plan(folder, tune=[], test=cells)
    if is_finished:
        first: dict[tuple[str, str], Path] = {}
        for cell in cells:
            _write_cell(config, folder, cell, first)
    return len(cells)


def _write_cell(config, folder, cell, first: dict[tuple[str, str], Path]) -> None:
    """One cell's files; those that say the same as another cell's are links to its."""
    from delora_eval.benchmark.folder import evaluation_fingerprint

    path = folder.run(cell).path
    for name in ("adapter", "images/final-0", "checkpoints/step-000200"):
        (path / name).mkdir(parents=True)
    twin = first.setdefault((cell.row, cell.subject), path)
    if twin is path:
        _write_common(cell, path, evaluation_fingerprint(config, cell))
    else:
        for name in _COMMON:
            os.link(twin / name, path / name)
    (path / "scores.jsonl").write_text(_scores(cell))


_COMMON = (
    "config.yaml",
    "manifest.json",
    "outcome.json",
    "events.jsonl",
    "adapter/adapter_config.json",
    "images/final-0/00-image-s0.png",
    "images/final-0/images.jsonl",
)


def _write_common(cell, path: Path, evaluation: str) -> None:
    from PIL import Image

    from delora_sd.config.load import to_yaml
    from delora_sd.data.held_out import load_run_subject
    from delora_sd.files.contents import hash_file

    photos = {photo.name: hash_file(photo) for photo in load_run_subject(cell.train).photos}
    manifest = {"format": 1, "finished_step": 200, "seconds": 2.0, "pack": 8, "trainable_parameters": 1, "git": None}
    manifest |= {"device": "none", "base": {"id": "miniature"}, "peak_memory_bytes": None, "photos": photos}
    outcome = {"state": "finished", "evaluation": evaluation, "reason": None, "seconds": {"generate": 1.0}}
    events = [{"step": step, "loss": 0.1, "distance": step / 1000} for step in range(10, 201, 10)]
    events.append({"step": 200, "layers": {f"block.{n}.to_q": {"distance": 1.0} for n in range(32)}})
    listing = {"file": "00-image-s0.png", "prompt": "a qwe thing here", "prompt_index": 0, "seed": 0, "step": None}
    (path / "config.yaml").write_text(to_yaml(cell.train))
    (path / "manifest.json").write_text(json.dumps(manifest))
    (path / "outcome.json").write_text(json.dumps(outcome))
    (path / "events.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    (path / "adapter/adapter_config.json").write_text("{}")
    Image.effect_noise((64, 64), 80).convert("RGB").save(path / "images/final-0/00-image-s0.png")
    (path / "images/final-0/images.jsonl").write_text(json.dumps(listing) + "\n")


def _scores(cell) -> str:
    """The lines of scores.jsonl: of every score its mean and its value for each prompt."""
    dice = random.Random(cell.id)
    lines = [_line(cell, "reference photos", name, 0.9, None) for name in ("real_dino", "real_clip_i")]
    for score in SCORES:
        lines += [_line(cell, "final-0", score, dice.random(), number) for number in (None, *range(PROMPTS))]
    return "".join(json.dumps(line) + "\n" for line in lines)


def _line(cell, images: str, score: str, value: float, number: int | None) -> dict:
    known = {"protocol": "miniature", "step": None, "strength": 1.0, "base": "miniature", "random_base": False}
    known |= {"random_weights": False, "encoder": "mini-dino", "weights": "x", "pairs": 4, "images": 2, "photos": 2}
    prompt = None if number is None else f"a qwe thing, number {number}"
    return known | {
        "set": images,
        "subject": cell.subject,
        "score": score,
        "value": round(value, 6),
        "prompt": prompt,
        "prompt_index": number,
        "inputs": "x",
    }


def _written(folder: Path):
    from delora_eval.benchmark.folder import BenchmarkFolder, load_benchmark

    return load_benchmark(BenchmarkFolder(folder))


def _in_a_process(checkout: Path, name: str, folder: Path, limit: int) -> str:
    done = _start(checkout, name, folder, limit=limit)
    if done.returncode:
        is_over = done.returncode in (-signal.SIGXCPU, -signal.SIGKILL)
        return f"over {limit} | –" if is_over else f"failed: {(done.stderr.strip() or '?').splitlines()[-1][:80]} | –"
    cost = json.loads(done.stderr.strip().splitlines()[-1])
    said = next((line for line in done.stdout.splitlines() if line.startswith("page:")), "")
    return f"{cost['seconds']:.1f} {said} | {cost['mb']:.0f}"


def _start(
    checkout: Path, name: str, folder: Path, *, limit: int | None = None, options: Sequence[str] = ()
) -> subprocess.CompletedProcess:
    """Runs one command with the code, and the script, of a checkout."""
    environment = os.environ | {"PYTHONPATH": f"{checkout}{os.pathsep}{checkout / 'eval'}", "COLUMNS": "160"}
    script = checkout / Path(__file__).resolve().relative_to(ROOT)  # its own: modules may have moved

    def give_up_in_time() -> None:
        if limit is not None:
            resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))

    return subprocess.run(
        [sys.executable, str(script), "--run", name, str(folder), *options],
        env=environment,
        capture_output=True,
        text=True,
        preexec_fn=give_up_in_time,
    )


def _commit(checkout: Path) -> str:
    said = subprocess.run(["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    return said.stdout.strip() or checkout.name


if __name__ == "__main__":
    main()
