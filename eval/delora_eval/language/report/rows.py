"""A table's numbers: every method's scores over seeds, and how sure they are."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

from delora_eval.language.folder import Result, TableFolder
from delora_eval.language.grid import Cell
from delora_eval.language.metrics import BENCHMARK_COLUMNS, MMLU_BY_SIZE, REPORTED
from delora_eval.scoring.measures.statistics import Spread, summarise_seeds
from delora_sd.language.data.tasks import INSTRUCTIONS


@dataclass(frozen=True, kw_only=True)
class Row:
    """One method at one factor."""

    method: str
    label: str
    factor: float | None
    scores: dict[str, Spread]
    """{task or column: percent over seeds}; unfinished ones are missing. "mean" only when nothing is."""
    errors: dict[str, float]
    """{task or column: standard error in points over the items asked}, the mean of its cells."""
    num_parameters: int | None
    held_out_loss: float | None
    num_missing: int
    """Cells that are not finished."""


def collect(folder: TableFolder, cells: Iterable[Cell]) -> list[tuple[Cell, Result | None]]:
    """Returns every cell with its result, None while it is unfinished."""
    return [(cell, folder.read_result(cell)) for cell in cells]


def build_rows(found: list[tuple[Cell, Result | None]], columns: tuple[str, ...]) -> list[Row]:
    """Returns one row per method and factor, in the order of the cells; `columns` are what "mean" is over."""
    keys = dict.fromkeys((cell.entry.name, cell.factor) for cell, _ in found)
    return [_row([pair for pair in found if (pair[0].entry.name, pair[0].factor) == key], columns) for key in keys]


def _row(found: list[tuple[Cell, Result | None]], columns: tuple[str, ...]) -> Row:
    first, finished = found[0][0], [(cell, result) for cell, result in found if result is not None]
    by_seed: dict[int, dict[str, float]] = {}
    errors: dict[str, list[float]] = {}
    for cell, result in finished:
        seed = by_seed.setdefault(cell.training.seed, {})
        for column, metric in _shown(cell).items():
            seed[column] = result.scores[metric]
            if metric in result.errors:
                errors.setdefault(column, []).append(result.errors[metric])
    for scores in by_seed.values():
        if all(column in scores for column in columns):
            scores["mean"] = sum(scores[column] for column in columns) / len(columns)
    names = dict.fromkeys(name for scores in by_seed.values() for name in scores)
    spreads = {name: _spread([scores[name] for scores in by_seed.values() if name in scores]) for name in names}
    losses = [-result.chosen_by for cell, result in finished if cell.training.task == INSTRUCTIONS and result.chosen_by]
    return Row(
        method=first.entry.name,
        label=first.entry.label,
        factor=first.factor,
        scores=spreads if len(finished) == len(found) else {k: v for k, v in spreads.items() if k != "mean"},
        errors={column: sum(values) / len(values) for column, values in errors.items()},
        num_parameters=finished[0][1].num_parameters if finished else None,
        held_out_loss=sum(losses) / len(losses) if losses else None,
        num_missing=len(found) - len(finished),
    )


def _shown(cell: Cell) -> dict[str, str]:
    """{column: metric of the result}"""
    if cell.training.task == INSTRUCTIONS:
        return {name: name for name in (*BENCHMARK_COLUMNS, MMLU_BY_SIZE)}
    return {cell.training.task: REPORTED[cell.training.task]}


def _spread(values: list[float]) -> Spread:
    return summarise_seeds(values, higher_is_better=True)


def show(spread: Spread | None) -> str:
    """`87.2 ± 0.15`: mean and sample std over seeds; one seed has none."""
    if spread is None:
        return "–"
    return f"{spread.mean:.1f}" if math.isnan(spread.std) else f"{spread.mean:.1f} ± {spread.std:.2f}"
