"""A heat map of two settings of one method: where it is good, and how far from there it stays so."""

import math
from typing import Any

from delora_eval.benchmark.methods import FACTOR
from delora_eval.benchmark.report.numbers.rows import Row, setting_label
from delora_eval.benchmark.report.numbers.view import BenchmarkView, ProtocolView
from delora_eval.pages.drawing import INK, SOFT, Drawing, draw
from delora_eval.scoring.measures.metrics import FIDELITIES


def map_figure(
    view: BenchmarkView, protocol: ProtocolView, method: str, scores: tuple[str, str] = FIDELITIES
) -> Drawing | None:
    """A heat map of two settings, such as lambda x learning rate, for one method: both fidelities."""
    rows = [row for row in protocol.rows if row.method == method]
    axes_names = _two_axes(rows)
    if axes_names is None:
        return None
    across, down = axes_names
    xs, ys = (sorted({row.setting[name] for row in rows}) for name in (across, down))

    def paint(figure: Any, axes: list[Any]) -> None:
        for axis, score in zip(axes, scores, strict=True):
            grid = [[_cell_value(rows, {across: x, down: y}, score) for x in xs] for y in ys]
            image = axis.imshow(grid, origin="lower", cmap="cividis", aspect="auto")
            low, high = image.get_clim()
            for (column, row), value in _numbered(grid):
                is_dark = math.isnan(value) or value <= (low + high) / 2
                text = "×" if math.isnan(value) else f"{value:.2f}"
                axis.text(column, row, text, ha="center", va="center", fontsize=8, color=_on(is_dark, value))
            axis.set_xticks(range(len(xs)), [f"{x:g}" for x in xs])
            axis.set_yticks(range(len(ys)), [f"{y:g}" for y in ys])
            axis.set_xlabel(_axis_name(across))
            axis.set_ylabel(_axis_name(down))
            axis.grid(False)
            axis.set_title(protocol.label(score), loc="left")

    return draw(
        f"map-{method}",
        f"{rows[0].label}: {_axis_name(down)} against {_axis_name(across)}",
        f"Mean over subjects and seeds; ×: a cell diverged or failed. Protocol {protocol.protocol.name}.",
        paint,
        panels=2,
    )


def _two_axes(rows: list[Row]) -> tuple[str, str] | None:
    """The two numeric settings that vary, if there are exactly two with several values each."""
    names = [
        name
        for name in (rows[0].setting if rows else {})
        if len({str(row.setting.get(name)) for row in rows}) > 1 and isinstance(rows[0].setting[name], int | float)
    ]
    if len(names) != 2:
        return None
    is_rate_first = names[0].startswith("optimizer") or names[0] == FACTOR
    return (names[0], names[1]) if is_rate_first else (names[1], names[0])


def _cell_value(rows: list[Row], setting: dict[str, Any], score: str) -> float:
    """NaN unless every cell of the row was scored."""
    row = next((row for row in rows if setting.items() <= row.setting.items()), None)
    return row.scores[score].seeds.mean if row and score in row.scores and not row.lost else math.nan


def _numbered(grid: list[list[float]]):
    return (((column, row), value) for row, line in enumerate(grid) for column, value in enumerate(line))


def _on(is_dark: bool, value: float) -> str:
    if math.isnan(value):
        return SOFT
    return "#ffffff" if is_dark else INK.replace("1a", "1b")


def _axis_name(setting: str) -> str:
    return setting_label({setting: 0}).replace("×0", "factor").rsplit(" ", 1)[0]
