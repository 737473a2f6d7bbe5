"""The search behind the settings: the same number of them for every method, and a rule that was written down before."""

from collections.abc import Sequence
from typing import Any

from delora_eval.benchmark.report.numbers.rows import Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.fidelity.claim import Claim, context_mean, score_table, subject_mean
from delora_eval.pages.drawing import Drawing, draw, look

CONTEXT_FLOOR = 0.85
"""Share of images in their own context that a setting must keep to be chosen."""

RULE = (
    f"of a method's settings that keep the context in at least {CONTEXT_FLOOR:.0%} of the images, the one with the "
    "highest subject score; when none does, the one that keeps it most often"
)


def searched_settings(view: BenchmarkView) -> Claim:
    """What was tried for each method, and what the rule chooses."""
    methods = dict.fromkeys(row.method for row in view.main.rows)
    tried = {method: [row for row in view.main.rows if row.method == method] for method in methods}
    chosen = {method: choose_on_frontier(rows) for method, rows in tried.items()}
    counts = ", ".join(f"{rows[0].label} {len(rows)}" for rows in tried.values())
    return Claim(
        number="Search",
        text="Settings: the best of each method on subjects that no other study looks at.",
        verdict="; ".join(
            f"{row.title}: {subject_mean(row):.3f}, context {context_mean(row):.0%}" for row in chosen.values()
        ),
        findings=(f"the rule: {RULE}", f"settings tried: {counts}"),
        table=score_table("Every setting tried", view.main.rows, view.main),
        drawings=(frontier_figure(view, tried, chosen),),
    )


def choose_on_frontier(rows: Sequence[Row]) -> Row:
    """Returns the setting that RULE chooses."""
    kept = [row for row in rows if context_mean(row) >= CONTEXT_FLOOR]
    return max(kept, key=subject_mean) if kept else max(rows, key=context_mean)


def frontier_figure(view: BenchmarkView, tried: dict[str, list[Row]], chosen: dict[str, Row]) -> Drawing:
    """Context against subject, a point per setting; what the rule chose is ringed."""

    def paint(figure: Any, axes: list[Any]) -> None:
        axis = axes[0]
        for index, (method, rows) in enumerate(tried.items()):
            style = look(index)
            points = [(context_mean(row), subject_mean(row)) for row in rows]
            axis.plot(*zip(*points, strict=True), linestyle="none", label=rows[0].label, alpha=0.75, **style)
            best = chosen[method]
            ring = {"marker": "o", "markersize": 12, "markerfacecolor": "none", "markeredgecolor": style["color"]}
            axis.plot([context_mean(best)], [subject_mean(best)], linestyle="none", **ring)
        axis.axvline(CONTEXT_FLOOR, linestyle=(0, (4, 3)), linewidth=1, color="#6b6861")
        axis.set_xlabel(f"{view.main.label('context_accuracy')} →")
        axis.set_ylabel(f"{view.main.label('dino')} →")
        axis.legend()

    return draw(
        "frontier",
        "Subject against context, every setting searched",
        "A point per setting; ringed: what the rule chooses, to the right of the dashed floor.",
        paint,
    )
