"""Rows of the tables: per method and setting, its scores over seeds and subjects with their spread, and its cost;
and how these numbers read in a cell of a table."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from delora_eval.benchmark.folder import BenchmarkFolder, read_outcome
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.methods import FACTOR, Point
from delora_eval.benchmark.results import Result, score_rows
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.scoring.judges.family import FAMILY, WIDE
from delora_eval.scoring.measures.metrics import SCORES, PairMean, pool
from delora_eval.scoring.measures.statistics import Estimate, Spread, bootstrap_mean, summarise_seeds
from delora_sd.files.run_folder import RunFolder

BOOTSTRAP_SEED = 0
"""Fixed, so that the same scores give the same report."""

MISSING = "–"

SHORT_NAMES = {"optimizer.lr": "lr", "optimizer.boundary_lr": "λ lr", "adapter.boundary": "λ", FACTOR: "×"}

Pooling = Literal["subjects", "pairs"]

FAMILY_JUDGES = tuple(
    score.name for judge in FAMILY.values() for score in judge.subject if not score.is_distance and judge.name in WIDE
)
WITH_CEILING = ("dino", "clip_i", "dino_held_out", "clip_i_held_out", *FAMILY_JUDGES)
"""Scores with a row of real photos."""

SUBJECT_JUDGES = (*WITH_CEILING, "rank_top1", "class_rank_top1")
"""What can say how well the subject was met."""


@dataclass(frozen=True, kw_only=True)
class RowScore:
    """One score of a row."""

    seeds: Spread
    """Over seeds; each seed pools its subjects as the protocol says."""
    subjects: Estimate
    """Mean over subjects (of their means over seeds) with its interval."""
    by_subject: dict[str, float]
    by_seed: dict[int, float]


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a row cost, means over its cells; None where nobody measured."""

    parameters: int | None
    train_seconds: float | None
    """Wall time of training, its share of the pack, loading included."""
    generate_seconds: float | None
    peak_bytes: int | None
    """Largest GPU memory of a training, shared by its pack."""
    pack: int | None
    file_bytes: int | None
    """The adapter as saved."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a table."""

    name: str
    method: str
    label: str
    setting: Point
    step: int | None
    ended: dict[str, int]
    """{finished, diverged, failed: cells}."""
    scores: dict[str, RowScore]
    cost: Cost
    is_random: bool

    @property
    def title(self) -> str:
        """`DeLoRA lr 0.02, λ 8`."""
        return " ".join([self.label, setting_label(self.setting)]).strip()

    @property
    def lost(self) -> str:
        """`2 of 6 diverged`; empty when every cell was scored."""
        total = sum(self.ended.values())
        losses = [
            f"{self.ended[state]} of {total} {state}" for state in ("diverged", "failed") if self.ended.get(state)
        ]
        return ", ".join(losses)


def build_rows(
    config: BenchmarkConfig,
    folder: BenchmarkFolder,
    cells: Sequence[Cell],
    selected: Iterable[Result],
    *,
    manifests: Mapping[str, dict[str, Any]],
    pooling: Pooling,
) -> list[Row]:
    """Returns the rows in the order of the grid; `selected` holds one result per cell, all of one protocol.

    `manifests` are those of the cells' runs, {cell id: manifest}, {} of a run that has none yet.
    """
    by_row: dict[str, list[Cell]] = {}
    for cell in cells:
        by_row.setdefault(cell.row, []).append(cell)
    results = score_rows(selected)
    return [
        _build_row(config, folder, own, results.get(name, []), manifests=manifests, pooling=pooling)
        for name, own in by_row.items()
    ]


def row_scores(results: Sequence[Result], *, pooling: Pooling) -> dict[str, RowScore]:
    """Returns {score: its statistics} of the results of one row."""
    names = [name for name in SCORES if any(name in result.totals for result in results)]
    return {name: _row_score(name, results, pooling) for name in names}


def method_label(config: BenchmarkConfig, method: str) -> str:
    entry = config.methods.get(method) or {}
    return str(entry.get("label", config.methods.get(f"{method}.label", method)))


def setting_label(setting: Point) -> str:
    """Returns `lr 0.02, λ 8`, `×4`."""
    parts = []
    for key, value in setting.items():
        name = SHORT_NAMES.get(key, key.rsplit(".", 1)[-1].replace("_", " "))
        shown = f"{value:g}" if isinstance(value, float | int) and not isinstance(value, bool) else str(value)
        parts.append(f"{name}{shown}" if key == FACTOR else f"{name} {shown}")
    return ", ".join(parts)


def ceiling_row(ceilings: Mapping[str, Mapping[str, PairMean]], pooling: Pooling) -> dict[str, float]:
    """Returns the Real Images row, {score: value}, pooled over the subjects as the protocol says."""
    return {
        score: pool(
            [scores[f"real_{score}"] for scores in ceilings.values() if f"real_{score}" in scores], pooling
        ).value
        for score in WITH_CEILING
        if any(f"real_{score}" in scores for scores in ceilings.values())
    }


def _build_row(
    config: BenchmarkConfig,
    folder: BenchmarkFolder,
    cells: list[Cell],
    results: list[Result],
    *,
    manifests: Mapping[str, dict[str, Any]],
    pooling: Pooling,
) -> Row:
    first = cells[0]
    outcomes = [outcome for cell in cells if (outcome := read_outcome(folder.run(cell)))]
    steps = {result.step for result in results}
    return Row(
        name=first.row,
        method=first.method,
        label=method_label(config, first.method),
        setting=first.setting,
        step=steps.pop() if len(steps) == 1 else None,
        ended=dict(Counter(outcome.state for outcome in outcomes)),
        scores=row_scores(results, pooling=pooling),
        cost=_cost(
            [folder.run(cell) for cell in cells],
            [manifests[cell.id] for cell in cells if manifests.get(cell.id)],
            [outcome.seconds for outcome in outcomes],
        ),
        is_random=any(result.is_random for result in results),
    )


def _row_score(name: str, results: Sequence[Result], pooling: Pooling) -> RowScore:
    scored = [(result.cell, result.totals[name]) for result in results if name in result.totals]
    by_seed: dict[int, list[PairMean]] = {}
    by_subject: dict[str, list[float]] = {}
    for cell, mean in scored:
        by_seed.setdefault(cell.seed, []).append(mean)
        by_subject.setdefault(cell.subject, []).append(mean.value)
    seeds = {seed: pool(means, pooling).value for seed, means in sorted(by_seed.items())}
    subjects = {subject: sum(values) / len(values) for subject, values in sorted(by_subject.items())}
    better = SCORES[name].higher_is_better
    return RowScore(
        seeds=summarise_seeds(list(seeds.values()), higher_is_better=better is not False),
        subjects=bootstrap_mean(subjects, seed=BOOTSTRAP_SEED),
        by_subject=subjects,
        by_seed=seeds,
    )


def _cost(runs: Sequence[RunFolder], manifests: Sequence[dict[str, Any]], seconds: Sequence[dict[str, float]]) -> Cost:
    timed = [facts for facts in manifests if "seconds" in facts and facts.get("pack", 0) > 0]
    shares = [facts["seconds"] / facts["pack"] for facts in timed]
    sizes = [_folder_bytes(run) for run in runs if run.is_finished()]
    return Cost(
        parameters=_first(manifests, "trainable_parameters"),
        train_seconds=_mean(shares),
        generate_seconds=_mean([stages["generate"] for stages in seconds if "generate" in stages]),
        peak_bytes=max((facts.get("peak_memory_bytes") or 0 for facts in timed), default=0) or None,
        pack=max((facts["pack"] for facts in manifests if "pack" in facts), default=None),
        file_bytes=round(_mean(sizes)) if sizes else None,
    )


def _folder_bytes(run: RunFolder) -> int:
    return sum(file.stat().st_size for file in run.adapter.glob("*.safetensors"))


def _first(manifests: Sequence[dict[str, Any]], key: str) -> Any:
    return next((facts[key] for facts in manifests if key in facts), None)


def _mean(values: Sequence[float]) -> float | None:
    return sum(values) / len(values) if values else None


def show_score(score: RowScore | None) -> str:
    """`0.686 ± 0.0056 (0.693)`: mean, spread and best over seeds."""
    if score is None:
        return MISSING
    spread = score.seeds
    if spread.count < 2:
        return f"{spread.mean:.3f}"
    digits = 3 if spread.std >= 0.01 else 4
    return f"{spread.mean:.3f} ± {spread.std:.{digits}f} ({spread.best:.3f})"


def show_interval(estimate: Estimate) -> str:
    """`0.609 – 0.761`."""
    return f"{estimate.low:.3f} – {estimate.high:.3f}" if estimate.count > 1 else MISSING


def show_difference(estimate: Estimate) -> str:
    """`+0.009 [-0.084, +0.095]`, with a star when the interval leaves out 0."""
    if estimate.count < 2:
        return f"{estimate.mean:+.3f} (one subject)"
    return f"{estimate.mean:+.3f} [{estimate.low:+.3f}, {estimate.high:+.3f}]{' *' if estimate.excludes_zero else ''}"


def show_pair(row: Row, subject: str, scores: tuple[str, str]) -> str:
    """`0.700 / 0.310`: subject and prompt fidelity of one subject."""
    values = [row.scores[score].by_subject.get(subject) if score in row.scores else None for score in scores]
    return " / ".join(MISSING if value is None or math.isnan(value) else f"{value:.3f}" for value in values)


def show_paper(known: dict, score: str) -> str:
    """A score as the paper prints it."""
    if score not in known:
        return MISSING
    text = f"{known[score]:.3f}"
    if f"{score}_std" in known:
        text += f" ± {known[f'{score}_std']:.4f}"
    return text + (f" ({known[f'{score}_best']:.3f})" if f"{score}_best" in known else "")


def show_count(count: int | None) -> str:
    """`3.2M`."""
    if count is None:
        return MISSING
    return f"{count / 1e6:.1f}M" if count >= 1e5 else f"{count:,}"


def show_bytes(count: int | None) -> str:
    """`12.80 MB`."""
    if count is None:
        return MISSING
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB" if count >= 1e4 else f"{count} B"


def show_seconds(seconds: float | None) -> str:
    """`23.9 min`."""
    if seconds is None:
        return MISSING
    return f"{seconds / 60:.1f} min" if seconds >= 100 else f"{seconds:.1f} s"
