"""Learning-rate robustness: the mean score of every method over the factor its rates are multiplied by."""

from typing import Any

from delora_eval.language.report.rows import Row
from delora_eval.pages.drawing import Drawing, draw, look


def robustness_figure(rows: list[Row]) -> Drawing | None:
    """Returns the figure, None where nothing was multiplied; error bars are the std over seeds."""
    series: dict[str, list[Row]] = {}
    for row in rows:
        if row.factor is not None and "mean" in row.scores:
            series.setdefault(row.label, []).append(row)
    if not series:
        return None

    def paint(figure: Any, axes: list[Any]) -> None:
        for index, (label, points) in enumerate(series.items()):
            points = sorted(points, key=lambda row: row.factor)
            spreads = [row.scores["mean"] for row in points]
            bars = [0.0 if spread.count < 2 else spread.std for spread in spreads]
            means = [spread.mean for spread in spreads]
            axes[0].errorbar([row.factor for row in points], means, bars, label=label, capsize=2.5, **look(index))
        axes[0].set_xscale("log")
        axes[0].set_xlabel("learning rate, times the method's own")
        axes[0].set_ylabel("mean score, percent")
        axes[0].legend()

    caption = (
        "Mean over tasks against the factor every method's learning rate is multiplied by; bars: standard deviation "
        "over seeds. The paper shows robustness for images only (Fig. 2)."
    )
    return draw("rates", "Learning-rate robustness", caption, paint)
