"""Line charts as inline SVG. Colours come from the page's style sheet, so one figure serves light and dark.

Numbers in, text out; it knows nothing of runs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

WIDTH, HEIGHT = 360, 216
LEFT, RIGHT, TOP, BOTTOM = 42, 8, 10, 34
"""Plot margins, in SVG units; a figure 360 px wide shows one unit as one pixel."""

MAX_POINTS = 400
"""Points drawn per line; longer series are thinned evenly, first and last kept."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One series."""

    points: Sequence[tuple[float, float]]
    label: str = ""
    """Named in the legend; empty: not named."""
    look: str = "main"
    """CSS class: main, faint, or series-1 to series-6."""
    dots: bool = False
    """Draw a dot per point and no line between them."""


@dataclass(frozen=True, kw_only=True)
class Rule:
    """A horizontal line with a name, such as a ceiling."""

    y: float
    label: str


def line_chart(
    lines: Sequence[Line], *, title: str, x_label: str, rules: Sequence[Rule] = (), from_zero: bool = False
) -> Markup:
    """Returns an SVG of the lines; points that are not finite are left out."""
    series = [_thin([(x, y) for x, y in line.points if math.isfinite(x) and math.isfinite(y)]) for line in lines]
    xs = [x for points in series for x, _ in points]
    ys = [y for points in series for _, y in points] + [rule.y for rule in rules] + ([0.0] if from_zero else [])
    x_ticks, y_ticks = nice_ticks(min(xs), max(xs), count=5), nice_ticks(min(ys), max(ys), count=5)
    x_scale = _scale(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    y_scale = _scale(min(ys + y_ticks), max(ys + y_ticks), HEIGHT - BOTTOM, TOP)
    parts = [
        _y_axis(y_ticks, y_scale),
        _x_axis([tick for tick in x_ticks if min(xs) <= tick <= max(xs)], x_scale, x_label),
    ]
    parts += [_rule(rule, y_scale) for rule in rules]
    parts += [_path(points, line, x_scale, y_scale) for points, line in zip(series, lines, strict=True) if points]
    return Markup(
        '<svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}" preserveAspectRatio="xMidYMid meet">{}</svg>'
    ).format(WIDTH, HEIGHT, title, Markup("").join(parts))


def nice_ticks(low: float, high: float, *, count: int) -> list[float]:
    """Returns about `count` round numbers that cover low to high."""
    if high - low < 1e-12:
        low, high = low - max(abs(low) * 0.1, 1e-6), high + max(abs(high) * 0.1, 1e-6)
    raw = (high - low) / max(1, count - 1)
    power = 10 ** math.floor(math.log10(raw))
    step = min((factor * power for factor in (1, 2, 2.5, 5, 10)), key=lambda candidate: abs(candidate - raw))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(index * step, 12) for index in range(first, last + 1)]


def show_number(value: float) -> str:
    """Returns a tick's text: 0.001 as 1e-3, 1400 as 1400."""
    if value == 0:
        return "0"
    if abs(value) < 1e-2 or abs(value) >= 1e6:
        mantissa, exponent = f"{value:.2e}".split("e")
        return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
    return f"{value:.4f}".rstrip("0").rstrip(".")


def smooth(points: Sequence[tuple[float, float]], *, window: int) -> list[tuple[float, float]]:
    """Returns the centred running mean over `window` points; the ends use what there is."""
    half = window // 2
    values = [y for _, y in points]
    smoothed = []
    for index, (x, _) in enumerate(points):
        chosen = values[max(0, index - half) : index + half + 1]
        smoothed.append((x, sum(chosen) / len(chosen)))
    return smoothed


def _thin(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    if len(points) <= MAX_POINTS:
        return points
    step = (len(points) - 1) / (MAX_POINTS - 1)
    return [points[round(index * step)] for index in range(MAX_POINTS)]


def _scale(low: float, high: float, start: float, end: float):
    span = (high - low) or 1.0
    return lambda value: start + (value - low) / span * (end - start)


def _y_axis(ticks: Sequence[float], scale) -> Markup:
    parts = []
    for tick in ticks:
        y = f"{scale(tick):.1f}"
        parts.append(Markup('<line class="grid" x1="{}" x2="{}" y1="{}" y2="{}"/>').format(LEFT, WIDTH - RIGHT, y, y))
        parts.append(
            Markup('<text class="tick" x="{}" y="{}" dy="0.32em" text-anchor="end">{}</text>').format(
                LEFT - 8, y, show_number(tick)
            )
        )
    return Markup("").join(parts)


def _x_axis(ticks: Sequence[float], scale, label: str) -> Markup:
    parts = [
        Markup('<text class="tick" x="{}" y="{}" text-anchor="middle">{}</text>').format(
            f"{scale(tick):.1f}", HEIGHT - BOTTOM + 16, show_number(tick)
        )
        for tick in ticks
    ]
    parts.append(
        Markup('<text class="axis" x="{}" y="{}" text-anchor="end">{}</text>').format(WIDTH - RIGHT, HEIGHT - 4, label)
    )
    return Markup("").join(parts)


def _rule(rule: Rule, scale) -> Markup:
    y = scale(rule.y)
    return Markup(
        '<line class="rule" x1="{}" x2="{}" y1="{y}" y2="{y}"/>'
        '<text class="tick" x="{}" y="{above}" text-anchor="end">{label}</text>'
    ).format(LEFT, WIDTH - RIGHT, WIDTH - RIGHT, y=f"{y:.1f}", above=f"{y - 5:.1f}", label=rule.label)


def _path(points: Sequence[tuple[float, float]], line: Line, x_scale, y_scale) -> Markup:
    place = [f"{x_scale(x):.1f} {y_scale(y):.1f}" for x, y in points]
    title = Markup("<title>{}</title>").format(line.label) if line.label else Markup("")
    if line.dots or len(place) == 1:
        dots = [Markup('<circle cx="{}" cy="{}" r="2.2"/>').format(*point.split()) for point in place]
        return Markup('<g class="dot {}">{}{}</g>').format(line.look, title, Markup("").join(dots))
    return Markup('<path class="line {}" d="M{}">{}</path>').format(line.look, " L".join(place), title)
