"""An identity turned into paint: the colours and measures a shape draws with."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from delora_sd.miniature.world.paint.canvas import Pen, Point, ellipse_points, smooth_closed
from delora_sd.miniature.world.paint.palette import COLOURS, Colour
from delora_sd.miniature.world.things.identity import Identity


@dataclass(frozen=True, kw_only=True)
class Look:
    """Colours and proportions of one subject; `wide` and `tall` run from -1 to 1."""

    main: Colour
    second: Colour
    accent: Colour
    pattern: Image.Image | None
    wide: float
    tall: float
    extra: int

    def skin(self, pen: Pen, points: Sequence[Point]) -> None:
        """Fills a polygon with the main colour and the subject's pattern."""
        pen.polygon(points, self.main)
        if self.pattern is not None:
            pen.stencil(points, self.pattern)

    def skin_blob(self, pen: Pen, points: Sequence[Point]) -> None:
        """As `skin`, on the smooth closed curve through the points."""
        self.skin(pen, smooth_closed(points))

    def skin_ellipse(self, pen: Pen, x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> None:
        """As `skin`, on an ellipse."""
        self.skin(pen, ellipse_points(x, y, rx, ry, tilt))


def look_of(identity: Identity, pen: Pen, size_px: int) -> Look:
    """The paint of an identity for one pen: the pattern lies in the subject's own coordinates."""
    return Look(
        main=COLOURS[identity.main],
        second=COLOURS[identity.second],
        accent=COLOURS[identity.accent],
        pattern=_pattern(identity, Pen(size_px, pen.pose)),
        wide=identity.width - 1.0,
        tall=identity.height - 1.0,
        extra=identity.extra,
    )


def _pattern(identity: Identity, pen: Pen) -> Image.Image | None:
    """The pattern's marks alone on a transparent layer; none for plain."""
    marks = {"stripes": _stripes, "dots": _dots, "halves": _halves, "band": _band, "patches": _patches}
    if identity.pattern not in marks:
        return None
    marks[identity.pattern](pen, COLOURS[identity.second])
    return pen.layer


def _stripes(pen: Pen, colour: Colour) -> None:
    for start in (-1.45, -0.8, -0.15, 0.5, 1.15):
        pen.polygon([(start, -1.2), (start + 0.3, -1.2), (start + 0.6, 1.2), (start + 0.3, 1.2)], colour)


def _dots(pen: Pen, colour: Colour) -> None:
    for row, y in enumerate((-0.92, -0.46, 0.0, 0.46, 0.92)):
        for column in (-1.0, -0.5, 0.0, 0.5, 1.0):
            pen.disc(column + 0.25 * (row % 2), y, 0.15, colour)


def _halves(pen: Pen, colour: Colour) -> None:
    pen.box(0.0, -1.3, 1.3, 1.3, colour)


def _band(pen: Pen, colour: Colour) -> None:
    pen.box(-1.3, 0.18, 1.3, 0.52, colour)
    pen.box(-1.3, -0.72, 1.3, -0.5, colour)


def _patches(pen: Pen, colour: Colour) -> None:
    pen.ellipse(-0.42, -0.45, 0.32, 0.26, colour, 20)
    pen.ellipse(0.46, 0.1, 0.3, 0.36, colour, -15)
    pen.ellipse(-0.3, 0.72, 0.34, 0.24, colour, 0)
