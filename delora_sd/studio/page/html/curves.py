"""Curves of a training as SVG: drawn here, so that the page needs no library and no network."""

import math
from collections.abc import Sequence

from delora_sd.studio.page.html.pieces import esc

Curve = Sequence[tuple[int, float]]

_WIDTH, _HEIGHT, _LEFT, _BOTTOM, _TOP = 340, 150, 44, 22, 10
_MOST_POINTS = 240
_SMOOTH = 0.85
"""Of the moving average behind the noisy loss."""


def draw_curve(title: str, curve: Curve, *, last_step: int, smooth: bool = False, hint: str = "") -> str:
    """Returns a figure of one curve; smoothed ones show the values behind the mean, faintly."""
    values = [value for _, value in curve]
    mean = _moving_mean(values) if smooth else values
    low, high = _range(values)
    right = max(last_step, curve[-1][0], 1)
    points = [(step, value) for (step, _), value in zip(curve, mean, strict=True)]
    faint = _line(curve, right, low, high, "st-faint") if smooth else ""
    label = f"{title}: {mean[-1]:.4g} at step {curve[-1][0]}"
    return (
        f'<figure class="st-curve"><figcaption><b>{esc(title)}</b> <span>{mean[-1]:.4g}</span>'
        f"<small>{esc(hint)}</small></figcaption>"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{esc(label)}">{_grid(low, high, right)}'
        f"{faint}{_line(points, right, low, high, 'st-line')}</svg></figure>"
    )


def draw_bars(value: float, low: float, high: float, *, smallest: float, largest: float) -> str:
    """Returns a score with its interval on a line from the smallest to the largest score of the table."""
    span = max(largest - smallest, 1e-9)

    def place(number: float) -> float:
        return 4 + 92 * min(1.0, max(0.0, (number - smallest) / span))

    return (
        f'<svg class="st-bar" viewBox="0 0 100 12" preserveAspectRatio="none" aria-hidden="true">'
        f'<line x1="{place(low):.1f}" x2="{place(high):.1f}" y1="6" y2="6"/>'
        f'<rect x="{place(value) - 1:.1f}" y="1" width="2" height="10"/></svg>'
    )


def _line(curve: Curve, right: int, low: float, high: float, kind: str) -> str:
    every = max(1, len(curve) // _MOST_POINTS)
    shown = [*curve[:-1][::every], curve[-1]]
    places = " ".join(f"{_x(step, right):.1f},{_y(value, low, high):.1f}" for step, value in shown)
    last = shown[-1]
    dot = f'<circle class="st-dot" cx="{_x(last[0], right):.1f}" cy="{_y(last[1], low, high):.1f}" r="3"/>'
    return f'<polyline class="{kind}" points="{places}"/>' + (dot if kind == "st-line" else "")


def _grid(low: float, high: float, right: int) -> str:
    lines = []
    for value in (low, (low + high) / 2, high):
        y = _y(value, low, high)
        lines.append(f'<line class="st-grid" x1="{_LEFT}" x2="{_WIDTH - 6}" y1="{y:.1f}" y2="{y:.1f}"/>')
        lines.append(f'<text x="{_LEFT - 6}" y="{y + 3.5:.1f}" text-anchor="end">{_tick(value, high - low)}</text>')
    lines.append(f'<text x="{_LEFT}" y="{_HEIGHT - 5}">0</text>')
    lines.append(f'<text x="{_WIDTH - 6}" y="{_HEIGHT - 5}" text-anchor="end">step {right}</text>')
    return "".join(lines)


def _tick(value: float, span: float) -> str:
    """Returns the value with as many digits as tell it from its neighbours on the axis."""
    digits = max(0, min(5, 1 - math.floor(math.log10(span))))
    return f"{value:.{digits}f}" if digits else f"{value:.3g}"


def _x(step: int, right: int) -> float:
    return _LEFT + (_WIDTH - 6 - _LEFT) * step / right


def _y(value: float, low: float, high: float) -> float:
    return _TOP + (_HEIGHT - _TOP - _BOTTOM) * (high - value) / (high - low)


def _range(values: Sequence[float]) -> tuple[float, float]:
    """Without the outermost points of a long curve: one spike would flatten the rest."""
    ordered = sorted(values)
    cut = len(ordered) // 50
    low, high = ordered[cut], ordered[-1 - cut]
    room = (high - low) * 0.08 or abs(high) * 0.1 or 1.0
    return (max(0.0, low - room) if low >= 0 else low - room), high + room


def _moving_mean(values: Sequence[float]) -> list[float]:
    """An exponential mean that starts unbiased."""
    total, weight, means = 0.0, 0.0, []
    for value in values:
        total, weight = _SMOOTH * total + value, _SMOOTH * weight + 1
        means.append(total / weight)
    return means
