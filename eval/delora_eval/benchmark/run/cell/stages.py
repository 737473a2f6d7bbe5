"""What is done to a cell: train with its pack, generate, score. Called again, it goes on.

An error ends the cell, never the grid; only a disk that takes nothing more stops it. Out of GPU memory first halves the
pack or the batch.
"""

import fcntl
import os
import shutil
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from delora_eval.benchmark.folder import Outcome, evaluation_fingerprint, write_outcome
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.methods import dotted
from delora_eval.benchmark.run.cell.attempts import fail_cell, guarded, with_smaller_batches
from delora_eval.benchmark.run.cell.bench import Bench, Stages
from delora_eval.benchmark.run.cell.best_checkpoint import keep_chosen
from delora_eval.benchmark.run.cell.packs import Pack
from delora_eval.benchmark.run.cell.profile import profiled
from delora_eval.benchmark.settings import BenchmarkConfig, generate_settings
from delora_eval.settings import ChooseConfig, ScoreConfig
from delora_sd.config.overlay import with_settings
from delora_sd.data.subjects import present_subjects
from delora_sd.files.run_folder import RunFolder, read_json, write_folder
from delora_sd.settings import GenerateConfig, TrainConfig


def run_pack(bench: Bench, pack: Pack) -> None:
    """Trains a pack, then generates and scores each of its cells, and writes how each ended."""
    cells = [replace(cell, train=_into_folder(bench, cell)) if cell.train else cell for cell in pack]
    _train(bench, cells)
    for cell in cells:
        if (
            cell.train is None
            or bench.folder.run(cell).is_trained_to(cell.train.training.num_steps)
            or _divergence(bench.folder.run(cell))
        ):
            _evaluate(bench, cell)


def _into_folder(bench: Bench, cell: Cell) -> TrainConfig:
    return replace(cell.train, output_dir=str(bench.folder.run(cell).path))


def _train(bench: Bench, cells: list[Cell]) -> None:
    open_cells = [
        cell for cell in cells if cell.train and not bench.folder.run(cell).is_trained_to(cell.train.training.num_steps)
    ]
    open_cells = [cell for cell in open_cells if not _divergence(bench.folder.run(cell))]
    if not open_cells:
        return
    bench.display.begin("train", [cell.id for cell in open_cells])
    with guarded(bench, "train", open_cells) as guard, profiled(bench, "train", open_cells):
        bench.stages.train([cell.train for cell in open_cells])
    if guard.is_out_of_memory:
        _train_in_halves(bench, open_cells)


def _train_in_halves(bench: Bench, cells: list[Cell]) -> None:
    half = len(cells) // 2
    if half == 0:
        fail_cell(
            bench, cells[0], "train", "out of GPU memory with a pack of one; try training.gradient_checkpointing=true"
        )
        return
    bench.pack_size = min(bench.pack_size, half)
    bench.display.say(f"out of GPU memory with a pack of {len(cells)}; going on with packs of at most {half}")
    for start in range(0, len(cells), half):
        _train(bench, cells[start : start + half])


def _divergence(run: RunFolder) -> dict[str, Any] | None:
    """Returns {"step", "reason"} of an adapter whose training went to NaN; None otherwise."""
    file = run.path / "failed.json"
    return read_json(file) if file.exists() else None


def _evaluate(bench: Bench, cell: Cell) -> None:
    run, seconds = bench.folder.run(cell), {}
    for stage, work in (("generate", _generate), ("score", _score)):
        bench.display.begin(stage, [cell.id])
        began = time.monotonic()
        with guarded(bench, stage, [cell]) as guard, profiled(bench, stage, [cell]):
            work(bench, cell)
        if guard.is_out_of_memory:
            fail_cell(bench, cell, stage, f"out of GPU memory with a batch of one ({stage})")
        if guard.failed or guard.is_out_of_memory:
            return
        seconds[stage] = round(time.monotonic() - began, 1)
    diverged = _divergence(run) if cell.train else None
    outcome = Outcome(
        state="diverged" if diverged else "finished",
        evaluation=evaluation_fingerprint(bench.config, cell),
        reason=diverged["reason"] if diverged else None,
        seconds=seconds,
    )
    write_outcome(run, outcome)
    bench.display.end(cell.id, outcome.state)


def _generate(bench: Bench, cell: Cell) -> None:
    """Makes the images of every scored step, and those of the class prompts at the last one."""
    run = bench.folder.run(cell)
    steps = _steps_on_disk(run, cell) if cell.train else []
    shared = generate_settings(bench.config)
    if bench.config.checkpoint == "best_held_out" and cell.train:
        steps, shared = keep_chosen(bench, cell, run, steps, shared)
    for step in steps:
        if step == 0:
            _add_base_images(bench, cell, shared)
        else:
            _generate_one(bench, _at_step(shared, run, cell, step))
    if bench.config.drift and steps:
        of_class = replace(shared, prompts=("class",))
        if steps[-1] > 0:
            _generate_one(bench, _at_step(of_class, run, cell, steps[-1]))
        _add_base_images(bench, cell, of_class)


def _steps_on_disk(run: RunFolder, cell: Cell) -> list[int]:
    """The scored steps that training reached: all of them, unless it diverged."""
    if run.is_trained_to(cell.train.training.num_steps):
        return list(cell.steps)
    return [step for step in cell.steps if step in run.checkpoint_steps()]


def _at_step(settings: GenerateConfig, run: RunFolder, cell: Cell, step: int) -> GenerateConfig:
    is_last = step == cell.train.training.num_steps
    return replace(settings, run=str(run.path), step=None if is_last else step)


def _add_base_images(bench: Bench, cell: Cell, settings: GenerateConfig) -> None:
    """Gives the cell the base model's own images, made once per subject and shared by hard links."""
    run, shared = bench.folder.run(cell), bench.folder.base(cell.subject)
    asked = replace(settings, run="base", output_dir=str(shared), model=cell.train.model, data=cell.train.data)
    shared.mkdir(parents=True, exist_ok=True)
    with (shared / ".in-use").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        source = _generate_one(bench, asked)
    target = run.images / source.name
    if not target.exists():
        write_folder(target, lambda folder: _link_images(source, folder))


def _link_images(source: Path, folder: Path) -> None:
    for file in source.iterdir():
        if file.suffix in (".png", ".jsonl"):
            try:
                os.link(file, folder / file.name)
            except OSError:  # a file system without hard links
                shutil.copyfile(file, folder / file.name)


def _generate_one(bench: Bench, settings: GenerateConfig) -> Path:
    def call(batch_size: int | None) -> Path:
        return bench.stages.generate(replace(settings, batch_size=batch_size))

    return with_smaller_batches(bench, call, settings.batch_size)


def _score(bench: Bench, cell: Cell) -> None:
    config = bench.config
    run = bench.folder.run(cell)
    if cell.train is not None and not any(run.images.glob("*")):
        return  # diverged before its first checkpoint: nothing to look at
    shared = score_settings(config)
    what = {"run": str(run.path)} if cell.train else _made_elsewhere(bench, cell)

    def call(batch_size: int | None) -> None:
        encoders = replace(config.encoders, batch_size=batch_size)
        bench.stages.score(replace(shared, encoders=encoders, **what))

    with_smaller_batches(bench, call, config.encoders.batch_size)


def _made_elsewhere(bench: Bench, cell: Cell) -> dict[str, Any]:
    from delora_eval.benchmark.methods import dotted
    from delora_sd.data.subjects import load_subject

    train = with_settings(TrainConfig(), dotted(bench.config.train, where="train"), source="train")
    subject = load_subject(replace(train.data, subject=cell.subject))
    return {
        "reference": str(subject.photos[0].parent),
        "generated": cell.path,
        "prompts": cell.prompts,
        "identifier": train.data.identifier,
        "class_word": subject.class_word,
        "output": str(bench.folder.run(cell).scores),
    }


def real_stages(config: BenchmarkConfig) -> Stages:
    """Returns the stages of the product; the base that draws and the judges stay loaded from cell to cell."""
    from delora_eval.choice.choose import Choice, choose_step
    from delora_eval.scoring.inputs.task import read_task
    from delora_eval.scoring.judges.embedding import Judge
    from delora_eval.scoring.score import find_protocols, score_task
    from delora_sd.generation.generate import generate
    from delora_sd.generation.model import ModelKeeper
    from delora_sd.training.memory.pack_size import measure_pack_memory
    from delora_sd.training.recipe import train_pack

    judges: dict[int, Judge] = {}

    def score(settings: ScoreConfig) -> None:
        judge = judges.setdefault(settings.encoders.batch_size, Judge(config=settings.encoders))
        task = read_task(settings)
        score_task(judge, find_protocols(settings, task), task)

    def choose(settings: ChooseConfig) -> Choice:
        judge = judges.setdefault(settings.encoders.batch_size, Judge(config=settings.encoders))
        return choose_step(settings, draw, judge)

    draw = partial(generate, keeper=ModelKeeper())
    return Stages(measure=measure_pack_memory, train=train_pack, generate=draw, score=score, choose=choose)


def score_settings(config: BenchmarkConfig) -> ScoreConfig:
    """Returns the shared settings. Images are ranked among all subjects of the dataset, however many the grid has: a
    rank means the same when the grid grows, and in the search as in the test."""
    settings = dotted(config.train, where="train")
    dataset = settings.get("data.dataset", TrainConfig().data.dataset)
    subjects = () if settings.get("data.photos") else present_subjects(dataset)
    return ScoreConfig(
        protocol=config.protocol,
        lpips_weights=config.lpips_weights,
        copy_risk=config.copy_risk,
        judges=config.judges,
        gallery=dataset if len(subjects) > 1 else None,
        gallery_subjects=subjects if len(subjects) > 1 else (),
    )
