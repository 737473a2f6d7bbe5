"""Where the judges disagree about the order of the methods. There is no total score that could hide it."""

import numpy as np

from delora_eval.benchmark.report.numbers.rows import SUBJECT_JUDGES, Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView, ProtocolView
from delora_eval.pages.tables import Table
from delora_eval.scoring.judges.family import ASKED, FAMILY, WIDE
from delora_eval.scoring.measures.agreement import kendall_tau
from delora_eval.scoring.measures.metrics import SCORES

PROMPT_JUDGES = ("clip_t", "context_accuracy", "class_accuracy")
PROMPT_JUDGES += tuple(score.name for judge in FAMILY.values() for score in judge.prompt if judge.name in WIDE + ASKED)

MOST_ROWS = 10
"""Methods shown as columns; tau is over all of them."""

FEWEST_ROWS = 3
"""Two methods stand in one of two orders: no agreement can be told from chance."""


def agreement_table(view: BenchmarkView, protocol: ProtocolView) -> Table:
    """Returns each judge's order of the methods, 1 the best, and its agreement with the leading judge."""
    is_main = protocol is view.main
    lines = []
    if is_main:
        judges = [(item, score) for item in view.protocols for score in SUBJECT_JUDGES + PROMPT_JUDGES]
        rows = [row.name for row in protocol.rows if view.subject_score in row.scores]
        leaders = {True: _values(protocol, view.subject_score, rows), False: _values(protocol, "clip_t", rows)}
        for item, score in judges if len(rows) >= FEWEST_ROWS else []:
            values = _values(item, score, rows)
            if np.isfinite(values).all():
                lines.append(_line(item, score, values, leaders[score in SUBJECT_JUDGES], view))
    titles = [row.title for row in protocol.rows if view.subject_score in row.scores][:MOST_ROWS]
    return Table(
        name="agreement",
        title="Where the judges disagree about the order of the methods",
        columns=("Judge", "Asks for", *titles, "τ"),
        rows=tuple(lines),
        text_columns=2,
        notes=(
            "Places, 1 the best; equal means share one. τ: Kendall's, over all methods, with the first judge that asks "
            "the same. Places say nothing about how far apart methods are: the differences do.",
        ),
    )


def _line(
    protocol: ProtocolView, score: str, values: np.ndarray, leader: np.ndarray, view: BenchmarkView
) -> tuple[str, ...]:
    better = values if SCORES[score].higher_is_better is not False else -values
    places = [1 + int((better > value).sum()) for value in better]
    tau = kendall_tau(better, leader)
    name = protocol.label(score) + (f", {protocol.protocol.name}" if len(view.protocols) > 1 else "")
    asks = "subject" if score in SUBJECT_JUDGES else "prompt"
    return (name, asks, *map(str, places[:MOST_ROWS]), "–" if np.isnan(tau) else f"{tau:+.2f}")


def _values(protocol: ProtocolView, score: str, rows: list[str]) -> np.ndarray:
    by_name: dict[str, Row] = {row.name: row for row in protocol.rows}
    known = [by_name[name].scores.get(score) if name in by_name else None for name in rows]
    return np.array([np.nan if found is None else found.seeds.mean for found in known])
