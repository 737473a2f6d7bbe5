"""The figures of a report. Each returns a Drawing, or None when the benchmark has nothing for it."""

import math
from collections.abc import Callable
from typing import Any

from delora_eval.benchmark.methods import FACTOR
from delora_eval.benchmark.report.figures.map_figure import map_figure
from delora_eval.benchmark.report.numbers.rows import SUBJECT_JUDGES, Row, RowScore, setting_label
from delora_eval.benchmark.report.numbers.view import BenchmarkView, ProtocolView
from delora_eval.pages.drawing import PANEL, SOFT, Drawing, draw, look

MOST_ROWS_IN_LEGEND = 8

PLANE = "plane"
"""File name of the leading plane; those of other judges begin with it."""


def build_figures(view: BenchmarkView) -> list[Drawing]:
    """Returns every figure the benchmark has data for, the plane of the two fidelities first."""
    makers: tuple[Callable[[BenchmarkView, ProtocolView], Drawing | None], ...] = (
        sweep_figure,
        steps_figure,
        *(lambda view, protocol, method=method: map_figure(view, protocol, method) for method in _methods(view)),
    )
    drawings = plane_figures(view) + ([make(view, view.main) for make in makers] if view.main else [])
    return [drawing for drawing in [*drawings, norms_figure(view)] if drawing is not None]


def plane_figures(view: BenchmarkView) -> list[Drawing]:
    """Returns the plane for every protocol and subject judge; the reader picks. The first is the leading one's."""
    judges = [(protocol, score) for protocol in view.protocols for score in SUBJECT_JUDGES]
    judges.sort(key=lambda judge: (judge[0] is not view.main, judge[1] != view.subject_score))
    drawn = [plane_figure(view, protocol, score) for protocol, score in judges]
    return [drawing for drawing in drawn if drawing is not None]


def plane_figure(view: BenchmarkView, protocol: ProtocolView, score: str) -> Drawing | None:
    """Subject fidelity against prompt fidelity: a point per method and checkpoint, with intervals over subjects."""
    rows = [row for row in protocol.rows if {score, "clip_t"} <= row.scores.keys()]
    if not rows:
        return None

    several = len(rows) > len({row.method for row in rows})

    def paint(figure: Any, axes: list[Any]) -> None:
        axis, named = axes[0], set()
        for method, own in _by_method(rows).items():
            style = look(_methods(view).index(method))
            for path in _paths(protocol, own, score):
                axis.plot(
                    *zip(*path, strict=True), color=style["color"], alpha=0.45, linewidth=1, marker=".", markersize=4
                )
            for row in own:
                label = (row.label if several else row.title) if method not in named else None
                named.add(method)
                _point(axis, row.scores["clip_t"], row.scores[score], label=label, is_one_of_many=several, **style)
                if several:
                    place = (row.scores["clip_t"].seeds.mean, row.scores[score].seeds.mean)
                    text = setting_label(row.setting)
                    axis.annotate(text, place, xytext=(5, 4), textcoords="offset points", fontsize=6.5, color=SOFT)
        if score in protocol.real:
            axis.axhline(protocol.real[score], color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
            axis.annotate(
                "real photos",
                (1, protocol.real[score]),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
                color=SOFT,
            )
        axis.set_xlabel(f"prompt fidelity ({protocol.label('clip_t')}) →")
        axis.set_ylabel(f"subject fidelity ({protocol.label(score)}) →")
        _legend(axis, len(named))

    path = " Small dots: earlier checkpoints." if len(protocol.steps) > 1 else ""
    is_leading = protocol is view.main and score == view.subject_score
    return draw(
        PLANE if is_leading else f"{PLANE}-{_file_part(protocol.protocol.name)}-{score.replace('_', '-')}",
        "Subject fidelity against prompt fidelity",
        f"Up and to the right is better. Bars: 95% bootstrap interval over {len(view.subjects)} subjects.{path} "
        f"Protocol {protocol.protocol.name}.",
        paint,
        choice=f"{protocol.label(score)}, {protocol.protocol.name}",
    )


def sweep_figure(view: BenchmarkView, protocol: ProtocolView, scores: tuple[str, ...] = ()) -> Drawing | None:
    """Figs. 2, 5, 6: subject and prompt fidelity and distance against the factor on the learning rate."""
    scores = scores or (view.subject_score, "clip_t")
    methods = _by_method([row for row in protocol.rows if FACTOR in row.setting])
    if not methods:
        return None

    def paint(figure: Any, axes: list[Any]) -> None:
        for method, rows in methods.items():
            rows = sorted(rows, key=lambda row: row.setting[FACTOR])
            style = look(_methods(view).index(method))
            for axis, score in zip(axes, scores, strict=False):
                scored = [(row.setting[FACTOR], row.scores[score]) for row in rows if score in row.scores]
                _band(axis, scored, label=rows[0].label, **style)
                for row in rows:
                    if score not in row.scores and row.ended.get("diverged"):
                        axis.plot([row.setting[FACTOR]], [0.02], transform=axis.get_xaxis_transform(), **_cross(style))
            distances = [(row.setting[FACTOR], _last(view.distances(row))) for row in rows]
            known = [(factor, value) for factor, value in distances if value is not None]
            if known:
                axes[2].plot(*zip(*known, strict=True), **style)
        for axis, label in zip(axes, (*_labels(protocol, *scores), f"distance, {_layer(view)}"), strict=True):
            axis.set_xscale("log", base=2)
            axis.xaxis.set_major_formatter(lambda value, _: f"×{value:g}")
            axis.set_xlabel("factor on the base rate")
            axis.set_title(label, loc="left")
        _log_if_wide(axes[2])
        _legend(axes[0], len(methods))

    return draw(
        "sweep",
        "Robustness to the learning rate",
        "Bands: 95% bootstrap interval over subjects. A cross at the bottom: every cell diverged there. "
        f"Protocol {protocol.protocol.name}.",
        paint,
        panels=3,
    )


def steps_figure(view: BenchmarkView, protocol: ProtocolView, scores: tuple[str, ...] = ()) -> Drawing | None:
    """Figs. 3, 8: scores and distance over training."""
    scores = scores or (view.subject_score, "clip_t")
    rows = [row for row in protocol.rows if FACTOR not in row.setting]
    if len(protocol.steps) < 2 or not rows:
        return None

    def paint(figure: Any, axes: list[Any]) -> None:
        for row in rows:
            style = look(_series(view, row))
            steps = protocol.at_steps(row)
            for axis, score in zip(axes, scores, strict=False):
                scored = [(step, found[score]) for step, found in steps.items() if score in found]
                _band(axis, scored, label=row.title, **style)
            distances = {0: 0.0} | view.distances(row)
            if len(distances) > 1:
                axes[2].plot(list(distances), list(distances.values()), **style)
        for axis, label in zip(axes, (*_labels(protocol, *scores), f"distance, {_layer(view)}"), strict=True):
            axis.set_xlabel("step")
            axis.set_title(label, loc="left")
        _legend(axes[0], len(rows))

    return draw(
        "steps",
        "Over training",
        f"Bands: 95% bootstrap interval over subjects. Protocol {protocol.protocol.name}.",
        paint,
        panels=3,
    )


def norms_figure(view: BenchmarkView) -> Drawing | None:
    """Fig. 4: mean column norms of the pretrained projections, by block, in both readings of "column"."""
    if not view.norms:
        return None
    readings = {
        "input": "norm per input feature (torch dim=0, the authors' code)",
        "output": "norm per output row (dim=1, a column of the paper's Wᵀx)",
    }

    def paint(figure: Any, axes: list[Any]) -> None:
        for axis, (reading, title) in zip(axes, readings.items(), strict=True):
            blocks = view.norms[reading]
            kinds = list(next(iter(blocks.values())))
            for index, kind in enumerate(kinds):
                places = [place + (index - len(kinds) / 2) * 0.2 + 0.1 for place in range(len(blocks))]
                values = [block.get(kind, math.nan) for block in blocks.values()]
                axis.bar(places, values, width=0.18, color=look(index)["color"], label=kind)
            axis.set_xticks(range(len(blocks)), [name.replace("_blocks", "") for name in blocks], fontsize=7.5)
            axis.set_title(title, loc="left", fontsize=8.5)
            axis.grid(False, axis="x")
        axes[0].set_ylabel("mean norm")
        axes[0].legend(fontsize=8)

    return draw(
        "weight-norms",
        "Weight norms of the pretrained projections",
        f"Base model {view.norms['base']}. The paper prints Q, K, V, Out between 0 and 2 without saying which reading.",
        paint,
        panels=2,
    )


def _point(
    axis: Any,
    across: RowScore,
    up: RowScore,
    *,
    label: str | None,
    color: str,
    marker: str,
    is_one_of_many: bool,
) -> None:
    x, y = across.seeds.mean, up.seeds.mean
    axis.errorbar(
        x,
        y,
        xerr=_bars(x, across),
        yerr=_bars(y, up),
        fmt=marker,
        color=color,
        label=label,
        elinewidth=0.6 if is_one_of_many else 1,
        capsize=0 if is_one_of_many else 2.5,
        markeredgecolor=PANEL,
        markersize=6 if is_one_of_many else 8,
    )


def _bars(centre: float, score: RowScore) -> list[list[float]] | None:
    """Lengths down and up; None for one subject. The pooled mean may lie a little off the mean over subjects."""
    if score.subjects.count < 2:
        return None
    return [[max(0.0, centre - score.subjects.low)], [max(0.0, score.subjects.high - centre)]]


def _band(axis: Any, scored: list[tuple[float, RowScore]], *, label: str, color: str, marker: str) -> None:
    if not scored:
        axis.plot([], [], label=label, color=color, marker=marker)
        return
    xs = [x for x, _ in scored]
    axis.plot(xs, [score.seeds.mean for _, score in scored], label=label, color=color, marker=marker)
    if all(score.subjects.count > 1 for _, score in scored):
        low, high = [score.subjects.low for _, score in scored], [score.subjects.high for _, score in scored]
        axis.fill_between(xs, low, high, color=color, alpha=0.13, linewidth=0)


def _cross(style: dict[str, str]) -> dict[str, Any]:
    return {"color": style["color"], "marker": "x", "linestyle": "none", "clip_on": False}


def _paths(protocol: ProtocolView, rows: list[Row], score: str) -> list[list[tuple[float, float]]]:
    """Points of a method that belong in an order: the checkpoints of each row, or the rows along the factor."""
    paths = [list(protocol.at_steps(row).values()) for row in rows]
    if all(FACTOR in row.setting for row in rows):
        paths.append([row.scores for row in sorted(rows, key=lambda row: row.setting[FACTOR])])
    points = [
        [(s["clip_t"].seeds.mean, s[score].seeds.mean) for s in path if {score, "clip_t"} <= s.keys()] for path in paths
    ]
    return [path for path in points if len(path) > 1]


def _file_part(name: str) -> str:
    return "".join(character if character.isalnum() else "-" for character in name)


def _legend(axis: Any, count: int) -> None:
    if count <= MOST_ROWS_IN_LEGEND:
        axis.legend(fontsize=8, loc="best")
    else:
        axis.legend(fontsize=6, loc="upper left", bbox_to_anchor=(1, 1), ncols=1 + count // 24)


def _log_if_wide(axis: Any) -> None:
    low, high = axis.dataLim.y0, axis.dataLim.y1
    if low > 0 and high / low > 20:
        axis.set_yscale("log")
        axis.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axis.yaxis.set_minor_formatter(lambda value, _: "")


def _labels(protocol: ProtocolView, *scores: str) -> tuple[str, ...]:
    kinds = {"clip_t": "prompt fidelity", "context_accuracy": "prompt fidelity"}
    return tuple(f"{kinds.get(score, 'subject fidelity')} ({protocol.label(score)})" for score in scores)


def _layer(view: BenchmarkView) -> str:
    return (view.config.projection or "mean of layers").replace("_blocks", "").replace("transformer_blocks", "tb")


def _methods(view: BenchmarkView) -> list[str]:
    return list(dict.fromkeys(cell.method for cell in view.cells))


def _series(view: BenchmarkView, row: Row) -> int:
    """Rows of one setting per method take the method's colour; otherwise every row has its own."""
    names = list(dict.fromkeys(cell.row for cell in view.cells))
    return names.index(row.name) if len(names) > len(_methods(view)) else _methods(view).index(row.method)


def _by_method(rows: list[Row]) -> dict[str, list[Row]]:
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.method, []).append(row)
    return groups


def _last(distances: dict[int, float]) -> float | None:
    return distances[max(distances)] if distances else None
