"""Drawing on an oversampled picture in unit coordinates: x and y run from -1 to 1, y points down.

A shape never knows pixels: it draws through a `Pen`, which places the unit square on the picture.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from delora_sd.miniature.world.paint.palette import Colour
from delora_sd.miniature.world.paint.parts import PARTS

OVERSAMPLING = 4
Point = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class Pose:
    """Where the unit square lies: centre and half-extent as fractions of the picture, tilt in degrees."""

    x: float = 0.5
    y: float = 0.5
    half: float = 0.5
    tilt: float = 0.0


class Pen:
    """Draws filled shapes in unit coordinates on one RGBA layer of `size_px * OVERSAMPLING` pixels.

    With `is_naming_parts` also on `parts`, where every pixel is 1 + the index in PARTS of the part drawn last, or 0.
    """

    def __init__(self, size_px: int, pose: Pose, *, is_naming_parts: bool = False):
        self.side = size_px * OVERSAMPLING
        self.pose = pose
        self.part = ""
        self.layer = Image.new("RGBA", (self.side, self.side), (0, 0, 0, 0))
        self.parts = Image.new("L", (self.side, self.side), 0)
        self._draw = ImageDraw.Draw(self.layer)
        self._draw_parts = ImageDraw.Draw(self.parts) if is_naming_parts else None
        angle = math.radians(pose.tilt)
        cos, sin = math.cos(angle), math.sin(angle)
        self._matrix = np.array([[cos, -sin], [sin, cos]]) * pose.half * self.side
        self._offset = np.array([pose.x, pose.y]) * self.side

    def to_pixels(self, points: Sequence[Point]) -> list[Point]:
        """Pixel positions of unit points."""
        placed = np.asarray(points, dtype=float) @ self._matrix.T + self._offset
        return [tuple(point) for point in placed.tolist()]

    def polygon(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled polygon."""
        self._draw.polygon(self.to_pixels(points), fill=(*colour, 255))
        if self._draw_parts:
            self._draw_parts.polygon(self.to_pixels(points), fill=self._part_number())

    def _part_number(self) -> int:
        return PARTS.index(self.part) + 1

    def blob(self, points: Sequence[Point], colour: Colour) -> None:
        """A filled smooth closed curve through the points."""
        self.polygon(smooth_closed(points), colour)

    def ellipse(self, x: float, y: float, rx: float, ry: float, colour: Colour, tilt: float = 0.0) -> None:
        """A filled ellipse; `tilt` in degrees."""
        self.polygon(ellipse_points(x, y, rx, ry, tilt), colour)

    def disc(self, x: float, y: float, radius: float, colour: Colour) -> None:
        """A filled circle."""
        self.ellipse(x, y, radius, radius, colour)

    def box(self, x0: float, y0: float, x1: float, y1: float, colour: Colour, *, corner: float = 0.0) -> None:
        """A filled rectangle with rounded corners of the given radius."""
        self.polygon(box_points(x0, y0, x1, y1, corner), colour)

    def stroke(self, points: Sequence[Point], width: float, colour: Colour) -> None:
        """A smooth thick line through the points with round ends."""
        pixels = self.to_pixels(smooth_open(points))
        radius = width * self.pose.half * self.side / 2
        _draw_stroke(self._draw, pixels, radius, (*colour, 255))
        if self._draw_parts:
            _draw_stroke(self._draw_parts, pixels, radius, self._part_number())

    def stencil(self, points: Sequence[Point], paint: Image.Image) -> None:
        """Lays the RGBA picture `paint` over the polygon, respecting its transparency."""
        mask = Image.new("L", self.layer.size, 0)
        ImageDraw.Draw(mask).polygon(self.to_pixels(points), fill=255)
        clear = Image.new("RGBA", self.layer.size, (0, 0, 0, 0))
        self.layer.alpha_composite(Image.composite(paint, clear, mask))


def _draw_stroke(
    draw: ImageDraw.ImageDraw, pixels: Sequence[Point], radius: float, fill: int | tuple[int, ...]
) -> None:
    draw.line(pixels, fill=fill, width=max(1, round(2 * radius)), joint="curve")
    for x, y in (pixels[0], pixels[-1]):
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)


def ellipse_points(x: float, y: float, rx: float, ry: float, tilt: float = 0.0) -> list[Point]:
    """28 points around an ellipse."""
    turn = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    cos, sin = math.cos(math.radians(tilt)), math.sin(math.radians(tilt))
    across, down = rx * np.cos(turn), ry * np.sin(turn)
    return list(zip((x + across * cos - down * sin).tolist(), (y + across * sin + down * cos).tolist(), strict=True))


def box_points(x0: float, y0: float, x1: float, y1: float, corner: float) -> list[Point]:
    """The outline of a rectangle with rounded corners."""
    if corner <= 0:
        return [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
    points: list[Point] = []
    centres = (
        (x1 - corner, y1 - corner),
        (x0 + corner, y1 - corner),
        (x0 + corner, y0 + corner),
        (x1 - corner, y0 + corner),
    )
    for quarter, (x, y) in enumerate(centres):
        for step in range(5):
            angle = math.pi / 2 * (quarter + step / 4)
            points.append((x + corner * math.cos(angle), y + corner * math.sin(angle)))
    return points


def smooth_closed(points: Sequence[Point], steps: int = 6) -> list[Point]:
    """A closed Catmull-Rom curve through the points."""
    corners = np.asarray(points, dtype=float)
    return _catmull_rom(np.roll(corners, 1, 0), corners, np.roll(corners, -1, 0), np.roll(corners, -2, 0), steps)


def smooth_open(points: Sequence[Point], steps: int = 6) -> list[Point]:
    """An open Catmull-Rom curve through the points, ends included."""
    if len(points) < 3:
        return list(points)
    corners = np.asarray([points[0], *points, points[-1]], dtype=float)
    curve = _catmull_rom(corners[:-3], corners[1:-2], corners[2:-1], corners[3:], steps)
    return [*curve, tuple(points[-1])]


def _catmull_rom(before: np.ndarray, start: np.ndarray, end: np.ndarray, after: np.ndarray, steps: int) -> list[Point]:
    t = (np.arange(steps) / steps)[None, :, None]
    a, b, c, d = (part[:, None, :] for part in (before, start, end, after))
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    return [tuple(point) for point in curve.reshape(-1, 2).tolist()]
