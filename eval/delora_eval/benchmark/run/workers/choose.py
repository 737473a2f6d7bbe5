"""From a search to the setting that is tested: the best mean of the named score, per method."""

from typing import Any

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.results import read_results, score_rows, select_steps
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.scoring.measures.metrics import SCORES, pool
from delora_sd.errors import UserError, nearest_name


def check_choice(score: str) -> None:
    """Raises UserError when the score is unknown or has no better end."""
    rankable = tuple(name for name, kind in SCORES.items() if kind.higher_is_better is not None)
    if score not in rankable:
        raise UserError(f"tune.choose: '{score}' cannot choose{nearest_name(score, rankable)}")


def choose_settings(config: BenchmarkConfig, folder: BenchmarkFolder, cells: list[Cell]) -> dict[str, Any]:
    """Returns {method: {setting, score, step, candidates}}; a setting with a diverged or failed cell is never chosen.

    Raises:
        UserError: no setting of a method survived the search.
    """
    results = select_steps(read_results(folder, cells), config.checkpoint)
    protocol = next((result.protocol for result in results), None)
    rows = score_rows(result for result in results if result.protocol == protocol)
    wanted: dict[str, list[Cell]] = {}
    for cell in cells:
        wanted.setdefault(cell.row, []).append(cell)
    candidates = [_candidate(config.tune.choose, wanted[row], rows.get(row, [])) for row in wanted]
    return {method: _best(config.tune.choose, method, candidates) for method in dict.fromkeys(c.method for c in cells)}


def _candidate(score: str, cells: list[Cell], results: list) -> dict[str, Any]:
    means = [result.totals[score] for result in results if score in result.totals]
    return {
        "method": cells[0].method,
        "setting": cells[0].setting,
        "value": round(pool(means, "subjects").value, 6) if means else None,
        "step": results[0].step if results else None,
        "cells": len(cells),
        "scored": len(means),
    }


def _best(score: str, method: str, candidates: list[dict[str, Any]]) -> dict[str, Any]:
    own = [candidate for candidate in candidates if candidate["method"] == method]
    survivors = [candidate for candidate in own if candidate["scored"] == candidate["cells"]]
    if not survivors:
        raise UserError(
            f"search of {method}: in every setting a cell diverged, failed or lacks `{score}`; search other settings"
        )
    sign = 1 if SCORES[score].higher_is_better else -1
    best = max(survivors, key=lambda candidate: sign * candidate["value"])
    return {"setting": best["setting"], "score": score, "value": best["value"], "step": best["step"], "candidates": own}
