"""The table and the figure of `delora-sd judges`."""

import math
from typing import Any

from delora_eval.pages.drawing import SOFT, Drawing, draw, look
from delora_eval.pages.tables import Table
from delora_eval.scoring.measures.statistics import Estimate
from delora_eval.scoring.record.summary import RANDOM_STAMP
from delora_eval.trial.verdicts import Discrimination, Verdict

MISSING = "–"
CHANCE = 0.5


def verdict_table(verdicts: list[Verdict], *, dataset: str) -> Table:
    """Returns one row per judge; a column only where some judge has something to say."""
    columns = {
        "AUC": lambda v: _interval(v.dataset.auc),
        "AUC in class": lambda v: _interval(v.dataset.auc_within),
        "AUC lookalikes": lambda v: _interval(v.lookalikes and v.lookalikes.auc_within),
        "Top-1": lambda v: _interval(v.dataset.found and v.dataset.found.top1),
        "MRR": lambda v: _mean(v.dataset.found and v.dataset.found.reciprocal_rank),
        "Top-1 in class": lambda v: _interval(v.dataset.found_within and v.dataset.found_within.top1),
        "Top-1 lookalikes": lambda v: _interval(v.lookalikes and v.lookalikes.found_within.top1),
        "Margin": lambda v: _interval(v.dataset.found and v.dataset.found.margin),
        "α subject": lambda v: _number("cp" in v.agreement and v.agreement["cp"].alpha),
        "τ subject": lambda v: _number("cp" in v.agreement and v.agreement["cp"].tau),
        "α prompt": lambda v: _number("pf" in v.agreement and v.agreement["pf"].alpha),
        "τ prompt": lambda v: _number("pf" in v.agreement and v.agreement["pf"].tau),
        "ms per photo": lambda v: f"{1000 * v.seconds_per_photo:.1f}",
    }
    optional = ("AUC lookalikes", "Top-1 lookalikes", "α subject", "τ subject", "α prompt", "τ prompt")
    cells = {name: [show(each) for each in verdicts] for name, show in columns.items()}
    shown = {name: column for name, column in cells.items() if name not in optional or set(column) != {MISSING}}
    names = [each.judge + (" RANDOM" if each.is_random else "") for each in verdicts]
    return Table(
        name="judges",
        title=f"What the judges can tell apart, {dataset}",
        columns=("Judge", *shown),
        rows=tuple(zip(names, *shown.values(), strict=True)),
        notes=tuple(_notes(verdicts)),
    )


def verdict_figure(verdicts: list[Verdict], *, dataset: str) -> Drawing:
    """Returns the AUCs of every judge with their intervals: any two subjects, one class word, lookalikes."""
    series = {
        "any two subjects": lambda v: v.dataset.auc,
        "of one class word": lambda v: v.dataset.auc_within,
        "lookalikes": lambda v: v.lookalikes and v.lookalikes.auc_within,
    }

    def paint(figure: Any, axes: list[Any]) -> None:
        axis = axes[0]
        for index, (label, pick) in enumerate(series.items()):
            known = [(place, pick(each)) for place, each in enumerate(verdicts) if pick(each)]
            if known:
                places = [place + (index - 1) * 0.2 for place, _ in known]
                means = [estimate.mean for _, estimate in known]
                bars = [[e.mean - e.low for _, e in known], [e.high - e.mean for _, e in known]]
                style = look(index)
                axis.errorbar(means, places, xerr=bars, fmt=style["marker"], color=style["color"], label=label)
        axis.axvline(CHANCE, color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
        axis.annotate("chance", (CHANCE, 1), xycoords=("data", "axes fraction"), fontsize=8, color=SOFT, va="bottom")
        axis.set_yticks(range(len(verdicts)), [each.judge for each in verdicts])
        axis.set_ylim(len(verdicts) - 0.5, -0.5)
        axis.set_xlabel("AUC: same subject against other subject →")
        axis.legend(fontsize=8, loc="lower right")

    return draw(
        "judges",
        "What the judges can tell apart",
        f"AUC on the real photos of {dataset}; bars: 95% bootstrap interval over subjects."
        + (f" {RANDOM_STAMP}." if any(each.is_random for each in verdicts) else ""),
        paint,
    )


def _notes(verdicts: list[Verdict]) -> list[str]:
    first: Discrimination = verdicts[0].dataset
    notes = [
        "AUC: how often two photos of one subject are more alike than photos of two; 0.5 is chance.",
        f"In brackets: 95% bootstrap interval over {first.auc.count if first.auc else 0} subjects.",
        "Margin: own subject minus nearest other, in the judge's own unit; not comparable between judges.",
    ]
    if first.auc_within is None:
        notes.append("No two subjects share a class word: nothing within a class can be told.")
    people = next((each.agreement["cp"].alpha_of_people for each in verdicts if "cp" in each.agreement), None)
    if people is not None:
        notes.append(f"α, τ: agreement with DreamBench++'s raters, who reach α {people:.3f} among themselves.")
    if any(each.is_random for each in verdicts):
        notes.append(RANDOM_STAMP)
    return notes


def _interval(estimate: Estimate | None) -> str:
    return f"{estimate.mean:.3f} [{estimate.low:.3f}, {estimate.high:.3f}]" if estimate else MISSING


def _mean(estimate: Estimate | None) -> str:
    return f"{estimate.mean:.3f}" if estimate else MISSING


def _number(value: float | bool) -> str:
    return MISSING if value is False or math.isnan(value) else f"{value:.3f}"
