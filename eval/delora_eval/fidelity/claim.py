"""What a claim is, and the tables and images most claims show."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_eval.benchmark.methods import FACTOR
from delora_eval.benchmark.report.figures.sheets import Sheet
from delora_eval.benchmark.report.numbers.rows import Row, RowScore
from delora_eval.benchmark.report.numbers.view import BenchmarkView, ProtocolView
from delora_eval.fidelity.comparisons import SCORES
from delora_eval.pages.drawing import Drawing
from delora_eval.pages.tables import Table

SHEETS = 3
"""Subjects whose images are shown: the first by name, not the best."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Generated images in rows and columns, as one PNG."""

    name: str
    caption: str
    rows: tuple[tuple[Path | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing the paper or this project says, and what the miniature answers."""

    number: str
    text: str
    verdict: str
    """Follows from the comparisons by the rule of its kind of claim, never from a look at them."""
    findings: tuple[str, ...]
    table: Table
    drawings: tuple[Drawing, ...] = ()
    images: tuple[Images, ...] = ()


def subject_mean(row: Row) -> float:
    return row.scores["dino"].subjects.mean


def context_mean(row: Row) -> float:
    return row.scores["context_accuracy"].subjects.mean


def at_factor(view: BenchmarkView, factor: float) -> dict[str, Row]:
    """Returns {method: its row at this factor on the rate}."""
    return {row.method: row for row in view.main.rows if row.setting[FACTOR] == factor}


def score_table(title: str, rows: Sequence[Row], protocol: ProtocolView) -> Table:
    """A line per row: subject and context, each with its interval and its spread over seeds."""
    columns = ["Method"]
    for score in SCORES:
        columns += [protocol.label(score), "95% CI", "std over seeds"]
    lines = []
    for row in rows:
        line = [row.title]
        for score in SCORES:
            line += score_cells(row.scores.get(score))
        lines.append((*line, row.lost or "–"))
    return Table(name="scores", title=title, columns=(*columns, "Lost"), rows=tuple(lines))


def score_cells(score: RowScore | None) -> list[str]:
    """Mean, interval over subjects, spread over seeds, as text."""
    if score is None:
        return ["–"] * 3
    low, high = score.subjects.low, score.subjects.high
    spread = "–" if score.seeds.count < 2 else f"{score.seeds.std:.3f}"
    return [f"{score.subjects.mean:.3f}", f"[{low:.3f}, {high:.3f}]", spread]


def over_steps(sheet: Sheet) -> Images:
    names = ", ".join(strip.title for strip in sheet.strips)
    return Images(
        name=f"steps_{sheet.subject}",
        caption=f"{sheet.subject}, {sheet.strips[0].tiles[-1].prompt}. Rows: {names}. "
        f"Columns: {', '.join(sheet.columns)}. Lowest seed, not chosen.",
        rows=tuple(tuple(tile.file for tile in strip.tiles) for strip in sheet.strips),
    )


def over_prompts(sheet: Sheet, rows: Sequence[Row], name: str) -> Images:
    """The subject's photos, then a line per row with the same prompts and seed."""
    shown = {row.title for row in rows}
    strips = [strip for strip in sheet.strips if strip.title in shown]
    return Images(
        name=f"{name}_{sheet.subject}",
        caption=f"{sheet.subject}. First row: its photos. Then {', '.join(strip.title for strip in strips)}: "
        f"{'; '.join(sheet.columns)}. Lowest seed, not chosen.",
        rows=(sheet.photos, *(tuple(tile.file for tile in strip.tiles) for strip in strips)),
    )
