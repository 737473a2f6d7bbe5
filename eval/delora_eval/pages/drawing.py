"""One drawing of a figure, three forms: SVG and PNG files for papers, and an SVG whose colours the page decides."""

import io
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

INK, SOFT, LINE, PANEL = "#1d1c1a", "#6b6861", "#e6e2d9", "#fffffe"
SERIES = ("#2f6cb5", "#c0731f", "#1f8a7d", "#7b5cc2", "#b8406f", "#5c7a29", "#8a5a44", "#4d5b6b")
MARKERS = "osD^vPX*"
"""Methods differ by colour and by marker: a printed page may be grey."""

_THEMED = {INK: "var(--ink)", SOFT: "var(--soft)", LINE: "var(--line)", PANEL: "var(--panel)"} | {
    colour: f"var(--series-{index})" for colour, index in zip(SERIES, (1, 3, 2, 4, 5, 6), strict=False)
}
"""What the page's style sheet decides instead."""

PNG_DPI = 200


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """A finished figure."""

    name: str
    """File name without ending."""
    title: str
    caption: str
    svg: bytes
    png: bytes
    choice: str = ""
    """What a reader picks it by among drawings of its title; empty: it stands alone."""

    @property
    def inline_svg(self) -> str:
        """The SVG for a page: no XML head, no metadata, colours as CSS variables."""
        text = self.svg.decode("utf-8")
        text = text[text.index("<svg") :]
        text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
        text = re.sub(r'\b(id="|href="#|url\(#)', lambda match: f"{match[0]}{self.name}-", text)
        for colour, variable in _THEMED.items():
            text = text.replace(colour, variable)
        return text


def draw(
    name: str, title: str, caption: str, paint: Callable[[Any, Any], None], *, panels: int = 1, choice: str = ""
) -> Drawing:
    """Returns the drawing that `paint(figure, axes)` makes; `axes` is a list with one entry per panel."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    with plt.rc_context(_STYLE):
        figure, axes = plt.subplots(1, panels, figsize=(4.3 * panels if panels > 1 else 5.6, 3.7), squeeze=False)
        try:
            paint(figure, list(axes[0]))
            figure.tight_layout()
            svg, png = io.BytesIO(), io.BytesIO()
            figure.savefig(svg, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            figure.savefig(png, format="png", dpi=PNG_DPI, facecolor="white", metadata={"Software": None})
        finally:
            plt.close(figure)
    return Drawing(name=name, title=title, caption=caption, svg=svg.getvalue(), png=png.getvalue(), choice=choice)


def look(index: int) -> dict[str, Any]:
    """Colour and marker of series number `index`."""
    return {"color": SERIES[index % len(SERIES)], "marker": MARKERS[index % len(MARKERS)]}


_STYLE = {
    "font.family": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,  # labels are somebody's text: two dollars in one would be TeX
    "svg.fonttype": "none",
    "svg.hashsalt": "delora_sd",
    "axes.edgecolor": SOFT,
    "axes.labelcolor": INK,
    "axes.titlecolor": INK,
    "axes.titlesize": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.8,
    "xtick.color": SOFT,
    "ytick.color": SOFT,
    "text.color": INK,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "lines.markersize": 5.5,
}
