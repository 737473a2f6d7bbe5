"""What is the same, and how exactly, when the same command runs again. On a CPU, measured on x86-64, torch 2.14:

- another process, another hash seed, other file times: every byte of adapter, checkpoints, images and scores;
  exports but for the date in their header, events but for the speed.
- another number of threads (1, 2): sums are split otherwise. After three steps the loss differs by 1e-7 of itself,
  the trained tensors by at most 1e-4;
- another batch size of the sampler: the same bytes for these two images, at most one of 255 levels in general
  (tests/generation/test_sampler.py);
- a pack of K subjects and K runs of one: each step's gradients up to their rounding
  (tests/training/loop/test_packs.py).

On a GPU kernels choose their order of summation: only the seeds, the noise and the order of photos are the same.
"""

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from delora_sd.cli.main import main

TIMED = ("manifest.json", "events.jsonl", ".lock")
"""Seconds, speed, who ran it; compared without those, or not at all."""

JOB = """
import shlex, sys
sys.addaudithook(lambda event, found: event in ("pickle.find_class", "socket.connect", "socket.getaddrinfo")
                 and forbidden.append((event, str(found))))
forbidden = []
from delora_sd.cli.main import main
for line in sys.argv[1:]:
    assert main(shlex.split(line)) == 0, line
assert forbidden == [], forbidden
"""
"""Runs commands in one process; a request to a network or an opened pickle fails it."""


def run(folder: Path, *lines: str, threads: int = 1, hash_seed: int = 0) -> Path:
    """Runs the commands with `folder` as the working folder; returns the run folder in it."""
    folder.mkdir()
    cache = {"DELORA_SD_CACHE": str(folder / "cache")}
    changed = {"OMP_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(hash_seed), "CUDA_VISIBLE_DEVICES": ""} | cache
    environment = {key: value for key, value in os.environ.items() if key != "HF_HUB_OFFLINE"} | changed
    done = subprocess.run(
        [sys.executable, "-c", JOB, *lines], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return folder / "rex"


@pytest.fixture(scope="module")
def commands(tiny_sd: Path, photo_folder: Path) -> list[str]:
    """Three steps of training with class images, two images in one batch and one by one, their scores."""
    train = f"train model.base={tiny_sd} data.photos={photo_folder} data.class_word=dog output_dir=rex adapter.rank=4"
    train += " training.num_steps=3 training.checkpoint_every=2 training.log_every=1 training.num_class_images=2"
    train += " training.export_check=tensors"
    draw = "generate rex prompts='a {class_word}' images_per_prompt=2 num_inference_steps=3"
    return [train, draw, f"{draw} output_dir=alone batch_size=1", "score rex protocol=miniature"]


def run_here(folder: Path, commands: list[str], monkeypatch) -> Path:
    """Runs the commands in this process; returns the run folder."""
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("DELORA_SD_CACHE", str(folder / "cache"))
    assert [main(shlex.split(line)) for line in commands] == [0] * len(commands)
    return folder / "rex"


def images(folder: Path) -> np.ndarray:
    """(images, height, width, 3) by name."""
    files = sorted(folder.rglob("*.png"), key=lambda file: file.name)
    return np.stack([np.asarray(Image.open(file), dtype=np.int16) for file in files])


def contents(run: Path) -> dict[str, bytes]:
    """Returns {path: bytes} of everything that has no time in it."""
    files = (file for file in sorted(run.rglob("*")) if file.is_file() and file.parent.name != "export")
    return {str(file.relative_to(run)): file.read_bytes() for file in files if file.name not in TIMED}


def losses(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "images_per_second"} for line in lines]


def assert_same(first: Path, second: Path) -> None:
    ours, theirs = contents(first), contents(second)
    assert len(ours) > 12 and {name.partition("/")[0] for name in ours} >= {"adapter", "checkpoints", "images"}
    assert ours.keys() == theirs.keys()
    assert [name for name in ours if ours[name] != theirs[name]] == []
    assert losses(first) == losses(second)
    for layout in ("kohya", "diffusers"):
        name = f"export/rex.{layout}.safetensors"
        a, b = load_file(first / name), load_file(second / name)
        assert a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_the_same_commands_give_the_same_bytes(commands, tmp_path, monkeypatch):
    first, second = (run_here(tmp_path / name, commands, monkeypatch) for name in ("first", "second"))
    assert_same(first, second)
    cache = [
        sorted(path.read_bytes() for path in (tmp_path / name / "cache").rglob("*.png")) for name in ("first", "second")
    ]
    assert len(cache[0]) == 2 and cache[0] == cache[1]
    difference = np.abs(images(first / "images") - images(first.parent / "alone"))
    assert difference.shape[0] == 2 and difference.max() <= 1  # of 255; one by one against both in a batch


@pytest.fixture(scope="module")
def reference(commands, tmp_path_factory) -> Path:
    """One thread, hash seed 0, in a process of its own."""
    return run(tmp_path_factory.mktemp("reference") / "work", *commands)


@pytest.mark.slow
def test_another_process_gives_the_same_bytes_asks_no_network_and_opens_no_pickle(reference, commands, tmp_path):
    assert_same(reference, run(tmp_path / "work", *commands, hash_seed=7))


@pytest.mark.slow
def test_two_threads_differ_in_the_last_digits_only(reference, commands, tmp_path):
    other = run(tmp_path / "work", *commands, threads=2)
    name = "adapter/delora_sd_adapter.safetensors"
    a, b = load_file(reference / name), load_file(other / name)
    assert max((a[key] - b[key]).abs().max().item() for key in a) < 5e-4
    for ours, theirs in zip(losses(reference), losses(other), strict=True):
        if "loss" in ours:
            assert theirs["loss"] == pytest.approx(ours["loss"], rel=1e-5)
    assert np.abs(images(reference / "images") - images(other / "images")).max() <= 2
