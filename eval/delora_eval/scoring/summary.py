"""Scores as lines of text for a terminal."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delora_eval.scoring.measures.metrics import SCORES

RANDOM_STAMP = "RANDOM WEIGHTS: these numbers mean nothing"


def print_scores(lines: Sequence[dict[str, Any]], output: Path) -> None:
    """Prints the totals, one line per score, and where everything is."""
    print(render_scores(lines))
    print(f"scores: {output}")


def render_scores(lines: Sequence[dict[str, Any]]) -> str:
    """Returns the totals as an aligned table; over several subjects only the pooled ones."""
    totals = [line for line in lines if line["prompt"] is None]
    if any(line["subject"] is None for line in totals):
        totals = [line for line in totals if line["subject"] is None]
    header = ("set", "protocol", "score", "value", "pairs", "pictures", "encoder", "weights")
    rows = [header, *(_cells(line) for line in totals)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    is_random = any(line["random_weights"] or line["random_base"] for line in totals)
    return f"{text}\n{RANDOM_STAMP}" if is_random else text


def _cells(line: dict[str, Any]) -> tuple[str, ...]:
    kind = SCORES[line["score"]]
    stamp = " RANDOM" if line["random_weights"] or line["random_base"] else ""
    counts = (str(line["pairs"]), str(line["images"]))
    return (
        line["set"],
        line["protocol"],
        kind.label_for(line["encoder"]),
        kind.show(line["value"]) + stamp,
        *counts,
        line["encoder"],
        line["weights"],
    )
