"""Adapters of two subjects added up: every pair of neighbours of a benchmark's grid is drawn with the exact sum.

The images and scores of a pair lie in the benchmark's folder, `pairs/<cell>+<other subject>/`, apart from the cells'.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from delora_eval.benchmark.folder import BenchmarkFolder, cell_state, load_benchmark, read_plan
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.cell.bench import Stages
from delora_eval.benchmark.run.cell.stages import score_settings
from delora_eval.benchmark.run.workers.claims import Claims
from delora_eval.benchmark.run.workers.launchers import MakeStages
from delora_eval.benchmark.settings import BenchmarkConfig, generate_settings
from delora_sd.config.deciding import read_run_settings
from delora_sd.data.held_out import load_run_subject


@dataclass(frozen=True, kw_only=True)
class Half:
    """One subject of a pair: whose prompts are drawn, and whose adapter is added."""

    own: Cell
    other: Cell
    folder: Path

    @property
    def name(self) -> str:
        """Of the pair, the same for both halves."""
        return " + ".join(sorted((self.own.subject, self.other.subject)))

    @property
    def scores(self) -> Path:
        return self.folder / "scores.jsonl"


def halves(folder: BenchmarkFolder, cells: Sequence[Cell]) -> list[Half]:
    """Returns both halves of every pair of neighbours, per row and seed; the last subject is the first's neighbour."""
    found = []
    by_place = {(cell.row, cell.seed, cell.subject): cell for cell in cells}
    subjects = tuple(dict.fromkeys(cell.subject for cell in cells))
    for row, seed in dict.fromkeys((cell.row, cell.seed) for cell in cells):
        for first, second in _neighbours(subjects):
            pair = [by_place.get((row, seed, subject)) for subject in (first, second)]
            if None not in pair:
                found += [_half(folder, *pair), _half(folder, *reversed(pair))]
    return found


def draw_pairs(folder: BenchmarkFolder, make_stages: MakeStages) -> None:
    """Draws and scores what is missing; several processes share the work, and the same call again resumes."""
    config, cells = load_benchmark(folder), read_plan(folder)["test"]
    finished = [cell for cell in cells if cell_state(folder, config, cell) == "finished"]
    stages, claims = make_stages(config), Claims(folder=folder.claims)
    with claims.heartbeat():
        for half in halves(folder, finished):
            if not half.scores.exists() and claims.acquire(half.folder.name):
                _draw(folder, config, stages, half)
                claims.release(half.folder.name)


def _neighbours(subjects: Sequence[str]) -> Iterator[tuple[str, str]]:
    yield from itertools.pairwise(subjects)
    if len(subjects) > 2:
        yield subjects[-1], subjects[0]


def _half(folder: BenchmarkFolder, own: Cell, other: Cell) -> Half:
    return Half(own=own, other=other, folder=folder.path / "pairs" / f"{own.id}+{other.subject}")


def _draw(folder: BenchmarkFolder, config: BenchmarkConfig, stages: Stages, half: Half) -> None:
    run = folder.run(half.own)
    train = read_run_settings(run.config)
    subject = load_run_subject(train)
    together = {str(folder.run(half.other).adapter): 1.0}
    settings = replace(generate_settings(config), run=str(run.path), output_dir=str(half.folder))
    images = stages.generate(replace(settings, extra_adapters=together))
    scoring = replace(
        score_settings(config),
        reference=str(subject.photos[0].parent),
        generated=str(images),
        identifier=train.data.identifier,
        class_word=subject.class_word,
        output=str(half.scores),
        encoders=config.encoders,
    )
    stages.score(scoring)
