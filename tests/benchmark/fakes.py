"""Stages without models: they write what the real ones write, slowly on request, and note every finished training."""

import fcntl
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from pathlib import Path

import pytest
from PIL import Image

from delora_eval.benchmark.run.cell.bench import Stages
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.choice.choose import Choice, write_choice
from delora_eval.choice.rule import Candidate
from delora_eval.settings import ChooseConfig, ScoreConfig
from delora_sd.config.load import load_config, to_yaml
from delora_sd.data.held_out import load_run_subject
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import (
    FORMAT_VERSION,
    RunFolder,
    append_line,
    read_lines,
    write_folder,
    write_json,
    write_lines,
    write_text,
)
from delora_sd.settings import GenerateConfig, TrainConfig
from delora_sd.training.memory.pack_size import PackMemory

PROMPTS = ("a photo of {} on the beach", "a photo of {} in the <script>snow</script>")
SECONDS = "FAKE_SECONDS"
"""Environment: how long each part of a stage takes."""


@dataclass(frozen=True, kw_only=True)
class Failures:
    """Which trainings go wrong: {method: how often}, those that diverge, and how many fit on the fake GPU."""

    crashes: tuple[str, ...] = ()
    diverges: tuple[str, ...] = ()
    diverges_at: tuple[float, int] | None = None
    """(optimizer.lr, seed) of a training that goes wrong whatever its method."""
    largest_pack: int = 1000


def fake_stages(config: BenchmarkConfig, failures: Failures | None = None) -> Stages:
    failures = failures or Failures()
    return Stages(
        measure=lambda configs: PackMemory(fixed_bytes=0, bytes_per_adapter=1),  # a crash, not an estimate, is faked
        train=lambda configs: _train(configs, failures),
        generate=_generate,
        score=_score,
        choose=_choose,
    )


def idle_stages(config: BenchmarkConfig) -> Stages:
    """For what must do no work: every stage fails the test."""
    return Stages(**{stage.name: pytest.fail for stage in fields(Stages)})


def dino_of(method: str, subject: str, seed: int, step: int, *, lr: float | None = None) -> float:
    """The score a cell will get: known in advance, different everywhere.

    `lora` is best at its first step, every other method at its last; the best learning rate is 1e-3.
    """
    digest = hashlib.sha256(f"{method}{subject}{seed}".encode()).digest()
    gain = step / 1000 * (-1 if method == "lora" else 1)
    return round(0.5 + digest[0] / 1024 + gain - _missed(lr, best=1e-3), 6)


def clip_t_of(dino: float) -> float:
    return round(0.31 - dino / 20, 6)


def shift_of(step: int) -> float:
    """How far the first prompt lies below the mean, best early, and the second above it, best late."""
    return 1.5 * step / 1000


def _missed(lr: float | None, *, best: float) -> float:
    return 0.0 if lr is None else abs(math.log10(lr / best)) / 10


def trainings(output_dir: Path) -> list[str]:
    """Returns the run folder of every training that ended, in order; one that ended twice is there twice."""
    return [line["run"] for line in read_lines(output_dir.parent / "trainings.jsonl")]


@contextmanager
def undivided(output_dir: Path) -> Iterator[None]:
    """Inside, a training ends and is noted, or its process is killed: never one between the other's two halves."""
    with (output_dir.parent / "noting.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _pause() -> None:
    time.sleep(float(os.environ.get(SECONDS, "0")))


def _train(configs: list[TrainConfig], failures: Failures) -> None:
    if len(configs) > failures.largest_pack:
        raise RuntimeError("CUDA out of memory. Tried to allocate 20.00 MiB")
    for config in configs:
        if config.adapter.method in failures.crashes:
            raise OSError("the disk said no")
    for config in configs:
        _train_one(config, failures)


def _train_one(config: TrainConfig, failures: Failures) -> None:
    run = RunFolder(Path(config.output_dir))
    if run.is_finished():
        return
    with run.lock():
        write_text(run.config, to_yaml(config))
        training = config.training
        for step in range(training.checkpoint_every, training.num_steps + 1, training.checkpoint_every):
            if run.checkpoint(step).exists():
                continue
            is_hit = failures.diverges_at == (config.optimizer.lr, config.seed)
            if config.adapter.method in failures.diverges or is_hit:
                write_json(
                    run.path / "failed.json", {"step": step, "reason": f"the loss was not finite at step {step}"}
                )
                return
            _pause()
            write_folder(run.checkpoint(step), lambda folder: (folder / "progress.json").write_text("{}"))
            layers = {
                f"mid_block.attn1.{name}": {"distance": step / 10, "relative_distance": step / 1000, "boundary": 8.0}
                for name in ("to_q", "to_out.0")
            }
            append_line(run.events, {"step": step, "layers": layers})
        for step in range(training.log_every, training.num_steps + 1, training.log_every):
            append_line(run.events, {"step": step, "loss": 0.1, "distance": step / 1000})
        write_folder(run.adapter, lambda folder: (folder / "adapter_config.json").write_text("{}"))
        facts = {"format": FORMAT_VERSION, "finished_step": training.num_steps, "seconds": 2.0, "pack": 1}
        facts |= {
            "trainable_parameters": 3188864,
            "device": "fake",
            "versions": {"torch": "0"},
            "base": {"id": "miniature"},
        }
        subject = load_run_subject(config)
        facts |= {
            key: {photo.name: hash_file(photo) for photo in getattr(subject, key)} for key in ("photos", "held_out")
        }
        with undivided(run.path.parents[1]):
            write_json(run.manifest, facts | {"peak_memory_bytes": None, "git": None})
            append_line(run.path.parents[2] / "trainings.jsonl", {"run": run.path.name})


def _generate(config: GenerateConfig) -> Path:
    if config.run == "base":
        output, step, word = Path(config.output_dir), 0, config.data.subject
    else:
        output, step = Path(config.output_dir or config.run), config.step
        word = load_config(TrainConfig, [RunFolder(Path(config.run)).config], []).data.class_word
    kind = "class" if config.prompts == ("class",) else "subject"
    folder = RunFolder(output).images / f"{kind}-{'final' if step is None else step}"
    if (folder / "images.jsonl").exists():
        return folder
    _pause()

    def write(target: Path) -> None:
        lines = []
        for index, template in enumerate(PROMPTS):
            name = f"{index:02d}-image-s0.png"
            Image.new("RGB", (16, 16), (40 * index, 90, (step or 99) % 255)).save(target / name)
            words = f"qwe {word}" if kind == "subject" else "dog"
            lines.append(
                {"file": name, "prompt": template.format(words), "prompt_index": index, "seed": 0, "step": step}
            )
        (target / "images.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    write_folder(folder, write)
    return folder


def _choose(config: ChooseConfig) -> Choice:
    """The second of the steps: neither the first nor, with three, the last."""
    run = RunFolder(Path(config.run))
    candidates = tuple(
        Candidate(step=s, subject=0.5, subject_low=0.4, subject_high=0.6, prompt=0.3, trained=0.5, is_near_best=True)
        for s in config.steps
    )
    choice = Choice(
        step=config.steps[1],
        reason="as told",
        reference="held-out photos",
        protocol=config.protocol,
        prompts=config.prompts,
        seeds=(config.seed,),
        is_random=False,
        candidates=candidates,
    )
    write_choice(run, choice)
    return choice


def _score(config: ScoreConfig) -> None:
    if config.run is None:
        _write_scores(Path(config.output), "theirs", Path(config.reference).name, 0, {"images": (None, 0, True)})
        return
    run = RunFolder(Path(config.run))
    train = load_config(TrainConfig, [run.config], [])
    sets = {}
    for listing in sorted(run.images.glob("*/images.jsonl")):
        step = read_lines(listing)[0]["step"]
        value = train.training.num_steps if step is None else step
        sets[listing.parent.name] = (step, value, listing.parent.name.startswith("subject"))
    _pause()
    _write_scores(run.scores, train.adapter.method, train.data.subject, train.seed, sets, lr=train.optimizer.lr)


def _write_scores(output: Path, method: str, subject: str, seed: int, sets: dict, *, lr: float | None = None) -> None:
    lines = [_line("reference photos", None, subject, name, 0.9, None) for name in ("real_dino", "real_clip_i")]
    for name, (step, value, is_subject) in sets.items():
        dino = dino_of(method, subject, seed, value, lr=lr)
        scores = (
            {
                "dino": dino,
                "clip_i": dino + 0.1,
                "clip_t": clip_t_of(dino),
                "context_accuracy": dino,
                "copy_rate": _missed(lr, best=1e-2),
            }
            if is_subject
            else {"pres": 0.2}
        )
        if not is_subject and step != 0:
            scores["drift_dino"] = 0.1
        for score, mean in scores.items():
            lines.append(_line(name, step, subject, score, mean, None))
            lines += [
                _line(name, step, subject, score, mean + sign * shift_of(value), index)
                for index, sign in enumerate((-1, 1))
            ]
    write_lines(output, lines)


def _line(name: str, step: int | None, subject: str, score: str, value: float, index: int | None) -> dict:
    return {
        "set": name,
        "protocol": "miniature",
        "step": step,
        "strength": 0 if step == 0 else 1.0,
        "base": "miniature",
        "random_base": False,
        "random_weights": False,
        "encoder": "mini-dino",
        "weights": "abc",
        "subject": subject,
        "score": score,
        "value": round(value, 6),
        "pairs": 4,
        "images": 2,
        "photos": 2,
        "prompt": None if index is None else PROMPTS[index].format("qwe dog"),
        "prompt_index": index,
        "inputs": "x",
    }
