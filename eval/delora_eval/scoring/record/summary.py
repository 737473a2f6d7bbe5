"""Scores as lines of text for a terminal."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delora_eval.scoring.measures.metrics import SCORES
from delora_eval.scoring.record.costs import read_costs, render_costs
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_json, write_text

RANDOM_STAMP = "RANDOM WEIGHTS: these numbers mean nothing"

TABLE_COLUMNS = (
    "set", "subject", "protocol", "score", "value", "pairs", "images", "photos", "step", "strength", "encoder",
    "weights", "random_weights", "random_base",
)  # fmt: skip
"""Of the .csv and .json table; `subject` is empty in a row over all subjects."""


def print_scores(lines: Sequence[dict[str, Any]], output: Path) -> None:
    """Prints the totals, one line per score, and where everything is."""
    print(render_scores(lines))
    costs = read_costs(output)
    if costs:
        print(render_costs(costs))
    print(f"scores: {output}")


def render_scores(lines: Sequence[dict[str, Any]]) -> str:
    """Returns the totals as an aligned table; over several subjects only the pooled ones."""
    totals = [line for line in lines if line["prompt"] is None]
    if any(line["subject"] is None for line in totals):
        totals = [line for line in totals if line["subject"] is None]
    header = ("set", "protocol", "score", "value", "pairs", "images", "encoder", "weights")
    rows = [header, *(_cells(line) for line in totals)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(header))]
    text = "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )
    is_random = any(line["random_weights"] or line["random_base"] for line in totals)
    return f"{text}\n{RANDOM_STAMP}" if is_random else text


def check_table(table: str | None) -> None:
    """Raises UserError, before any image is read, for a table of a kind nobody writes."""
    if table is not None and Path(table).suffix.lower() not in (".csv", ".json"):
        raise UserError(f"table={table}: expected a file that ends in .csv or .json")


def write_table(lines: Sequence[dict[str, Any]], file: Path) -> None:
    """Writes the totals of every subject, and of all, one row per score; unrounded, as in scores.jsonl."""
    rows = table_rows(lines)
    if file.suffix.lower() == ".json":
        write_json(file, {"scores": rows})
    else:
        buffer = io.StringIO()
        writer = csv.DictWriter(buffer, TABLE_COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(file, buffer.getvalue())


def table_rows(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Returns the totals in the table's columns."""
    totals = [line for line in lines if line["prompt"] is None]
    return [{column: line.get(column) for column in TABLE_COLUMNS} for line in totals]


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
