"""Everything a benchmark's report shows, read from its folder once. Numbers only; how they look is for others."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from delora_eval.benchmark.folder import (
    BenchmarkFolder,
    cell_states,
    load_benchmark,
    read_outcome,
    read_plan,
    read_search,
)
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.paper import paper_rows
from delora_eval.benchmark.report.numbers.rows import Pooling, Row, RowScore, build_rows, ceiling_row, row_scores
from delora_eval.benchmark.results import Result, read_scores_of, score_rows, select_steps
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.scoring.judges.protocols import Protocol, find_protocol
from delora_eval.scoring.measures.metrics import SCORES
from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, read_json
from delora_sd.settings import TrainConfig


@dataclass(frozen=True, kw_only=True)
class ProtocolView:
    """The benchmark under one protocol."""

    protocol: Protocol
    results: tuple[Result, ...]
    """Every scored step of every cell."""
    selected: tuple[Result, ...]
    """One result per cell: the step that the checkpoint rule chose."""
    rows: tuple[Row, ...]
    real: dict[str, float]
    """The Real Images row: {score: value}, of dino, clip_i and, where photos were held out, those against them."""
    ceilings: dict[str, dict[str, float]]
    """{subject: the same of its photos}."""
    _at_steps: dict[str, dict[int, dict[str, RowScore]]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def pooling(self) -> Pooling:
        return self.protocol.pooling

    def label(self, score: str) -> str:
        """Returns the score's name; the miniature's judges are no DINO and no CLIP, and their numbers say so."""
        return SCORES[score].label_for(self.protocol.dino.encoder)

    @property
    def steps(self) -> tuple[int, ...]:
        return tuple(sorted({result.step for result in self.results if result.step is not None}))

    def at_steps(self, row: Row) -> dict[int, dict[str, RowScore]]:
        """Returns {step: {score: statistics}} of a row; worked out once, figures and tables ask again."""
        if row.name not in self._at_steps:
            by_step: dict[int, list[Result]] = {}
            for result in self._by_row.get(row.name, ()):
                if result.step is not None:
                    by_step.setdefault(result.step, []).append(result)
            self._at_steps[row.name] = {
                step: row_scores(results, pooling=self.pooling) for step, results in sorted(by_step.items())
            }
        return self._at_steps[row.name]

    @cached_property
    def _by_row(self) -> dict[str, list[Result]]:
        return score_rows(self.results)


@dataclass(frozen=True, kw_only=True)
class BenchmarkView:
    """A benchmark as its report shows it."""

    config: BenchmarkConfig
    folder: BenchmarkFolder
    cells: tuple[Cell, ...]
    searched: tuple[Cell, ...]
    chosen: dict[str, Any]
    protocols: tuple[ProtocolView, ...]
    """The first is the one that tables and figures lead with."""
    states: dict[str, str]
    """{cell id: state}."""
    reasons: dict[str, str]
    """{cell id: why it diverged or failed}."""
    manifests: tuple[dict[str, Any], ...]
    paper: dict[str, Any]
    """The paper's rows, {} when none are asked for."""
    norms: dict[str, Any]
    """Weight norms of the base model by block, {} when not asked for."""
    _distances: dict[str, dict[int, float]] = field(default_factory=dict, repr=False, compare=False)

    @property
    def main(self) -> ProtocolView | None:
        return self.protocols[0] if self.protocols else None

    def label(self, score: str) -> str:
        """Returns the score's name under the leading protocol."""
        return self.main.label(score) if self.main else SCORES[score].label

    @property
    def leading(self) -> tuple[str, ...]:
        """The scores of the main table: against trained photos, held-out ones or both, and the prompt."""
        trained, held_out = ("dino", "clip_i"), ("dino_held_out", "clip_i_held_out")
        both = ("dino", "dino_held_out", "memorised_dino", "clip_i", "clip_i_held_out")
        return ({"trained": trained, "held_out": held_out, "both": both}[self.config.references]) + ("clip_t",)

    @property
    def subject_score(self) -> str:
        """The subject score that figures and per-subject tables lead with."""
        return "dino_held_out" if self.config.references == "held_out" else "dino"

    @property
    def subjects(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(cell.subject for cell in self.cells))

    @property
    def is_random(self) -> bool:
        return any(row.is_random for view in self.protocols for row in view.rows) or any(
            facts.get("base", {}).get("random_weights") for facts in self.manifests
        )

    @property
    def is_miniature(self) -> bool:
        return any(facts.get("base", {}).get("id") == "miniature" for facts in self.manifests)

    def runs(self, row: Row) -> list[RunFolder]:
        return [self.folder.run(cell) for cell in self.cells_by_row.get(row.name, ())]

    @cached_property
    def cells_by_row(self) -> dict[str, list[Cell]]:
        rows: dict[str, list[Cell]] = {}
        for cell in self.cells:
            rows.setdefault(cell.row, []).append(cell)
        return rows

    @cached_property
    def train_of_rows(self) -> dict[str, TrainConfig]:
        """{row: its settings, in which only subject, seed and folder change}, of rows in which a training has begun."""
        files = {
            row: next((file for cell in cells if (file := self.folder.run(cell).config).exists()), None)
            for row, cells in self.cells_by_row.items()
        }
        return {row: read_run_settings(file) for row, file in files.items() if file}

    def distances(self, row: Row) -> dict[int, float]:
        """Returns `row_distances`; the events of a row's cells are read once, and only where they are asked for."""
        if row.name not in self._distances:
            self._distances[row.name] = row_distances(self, row)
        return self._distances[row.name]


def read_view(folder: BenchmarkFolder) -> BenchmarkView:
    """Returns what is there to report. Raises UserError when the folder is no benchmark's."""
    config, plan = load_benchmark(folder), read_plan(folder)
    everything = {cell.id: cell for cell in (*plan["test"], *plan["tune"])}
    states = cell_states(folder, config, everything.values())
    cells = tuple(plan["test"])
    manifests = {cell.id: folder.run(cell).read_manifest() for cell in cells}
    chosen = read_search(folder)
    for method, found in chosen.items():
        if found["score"] not in SCORES:
            raise UserError(f"{folder.chosen}: {method[:80]}: unknown score '{found['score'][:40]}'; delete the file")
    return BenchmarkView(
        config=config,
        folder=folder,
        cells=cells,
        searched=tuple(plan["tune"]),
        chosen=chosen,
        protocols=_read_protocols(config, folder, cells, manifests),
        states=states,
        reasons=_read_reasons(folder, everything.values(), states),
        manifests=tuple(filter(None, manifests.values())),
        paper=paper_rows(config.paper),
        norms=read_json(folder.norms) if folder.norms.exists() else {},
    )


def row_distances(view: BenchmarkView, row: Row) -> dict[int, float]:
    """Returns {step: Euclidean distance from the pretrained weight}, mean over the row's cells.

    Of the layer `projection` (its name or the end of it), or the mean of all adapted layers.
    """
    by_step: dict[int, list[float]] = {}
    for run in view.runs(row):
        for event in run.read_events():
            value = _layer_distance(event.get("layers"), view.config.projection)
            if value is not None:
                by_step.setdefault(event["step"], []).append(value)
    return {step: sum(values) / len(values) for step, values in sorted(by_step.items())}


def _layer_distance(layers: dict[str, Any] | None, projection: str | None) -> float | None:
    if not layers:
        return None
    chosen = [facts for name, facts in layers.items() if projection is None or name.endswith(projection)]
    values = [facts["distance"] for facts in chosen if facts.get("distance") is not None]
    return sum(values) / len(values) if values and all(map(math.isfinite, values)) else None


def _read_protocols(
    config: BenchmarkConfig, folder: BenchmarkFolder, cells: Sequence[Cell], manifests: dict[str, dict[str, Any]]
) -> tuple[ProtocolView, ...]:
    by_prompt = config.checkpoint == "best_step_per_prompt"
    results, ceilings = read_scores_of(folder, cells, with_prompts=by_prompt)
    names = sorted({result.protocol for result in results}, key=lambda name: _order(config, name))
    views = []
    for name in names:
        protocol = find_protocol(name)
        own = [result for result in results if result.protocol == name]
        selected = select_steps(own, config.checkpoint)
        views.append(
            ProtocolView(
                protocol=protocol,
                results=tuple(own),
                selected=tuple(selected),
                rows=tuple(build_rows(config, folder, cells, selected, manifests=manifests, pooling=protocol.pooling)),
                real=ceiling_row(ceilings.get(name, {}), protocol.pooling),
                ceilings={
                    subject: {score.removeprefix("real_"): mean.value for score, mean in scores.items()}
                    for subject, scores in ceilings.get(name, {}).items()
                },
            )
        )
    return tuple(views)


def _order(config: BenchmarkConfig, name: str) -> int:
    return config.protocol.index(name) if name in config.protocol else len(config.protocol)


def _read_reasons(folder: BenchmarkFolder, cells, states: dict[str, str]) -> dict[str, str]:
    return {
        cell.id: read_outcome(folder.run(cell)).reason for cell in cells if states[cell.id] in ("diverged", "failed")
    }
