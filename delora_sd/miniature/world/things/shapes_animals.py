"""Animals of the world: dog, cat and stuffed animal, all seen from the front, and the anchors outfits use."""

from dataclasses import dataclass

from delora_sd.miniature.world.paint.canvas import Pen
from delora_sd.miniature.world.paint.palette import CREAM, GOLD, INK, WHITE, Colour, darker, lighter, mix
from delora_sd.miniature.world.things.look import Look

PINK: Colour = (240, 130, 150)


@dataclass(frozen=True, kw_only=True)
class Figure:
    """Measures of a seated animal: head and body ellipses around x = 0."""

    head_y: float
    head_rx: float
    head_ry: float
    body_y: float
    body_rx: float
    body_ry: float


def figure_of(class_word: str, look: Look) -> Figure:
    """The measures of a dog or cat of these proportions."""
    if class_word == "cat":
        return Figure(
            head_y=-0.3,
            head_rx=0.5 + 0.05 * look.wide,
            head_ry=0.4,
            body_y=0.5,
            body_rx=0.38 + 0.07 * look.wide,
            body_ry=0.5,
        )
    return Figure(
        head_y=-0.36,
        head_rx=0.46 + 0.05 * look.wide,
        head_ry=0.46,
        body_y=0.48,
        body_rx=0.44 + 0.08 * look.wide,
        body_ry=0.52,
    )


def draw_dog(pen: Pen, look: Look) -> None:
    """A seated dog: hanging ears in the second colour, pale muzzle, collar in the accent colour."""
    shape = figure_of("dog", look)
    pen.stroke([(0.3, 0.72), (0.66, 0.6), (0.82, 0.22)], 0.17, darker(look.main, 0.12))
    look.skin_ellipse(pen, 0, shape.body_y, shape.body_rx, shape.body_ry)
    pen.ellipse(0, 0.6, 0.24, 0.32, lighter(look.main, 0.55))
    _paws(pen, lighter(look.main, 0.25))
    pen.ellipse(0, 0.08, 0.34, 0.11, look.accent)
    if look.extra == 1:
        pen.polygon([(-0.32, 0.1), (0.32, 0.1), (0, 0.46)], look.accent)
    look.skin_ellipse(pen, 0, shape.head_y, shape.head_rx, shape.head_ry)
    length = 0.36 + 0.09 * look.tall
    for side in (-1, 1):
        pen.ellipse(side * (shape.head_rx + 0.03), -0.52 + length * 0.75, 0.17, length, look.second, -side * 14)
    if look.extra == 2:
        pen.ellipse(0.2, -0.46, 0.17, 0.19, look.second)
    pen.ellipse(0, -0.17, 0.27, 0.22, CREAM)
    pen.ellipse(0, -0.02, 0.085, 0.09, PINK)
    pen.ellipse(0, -0.27, 0.115, 0.085, INK)
    _round_eyes(pen, 0.2, -0.47)


def draw_cat(pen: Pen, look: Look) -> None:
    """A seated cat: pointed ears, coloured eyes, whiskers and a tail curled up beside it."""
    shape = figure_of("cat", look)
    lift = 0.12 * look.tall
    pen.stroke([(0.25, 0.85), (0.66, 0.78), (0.8, 0.35), (0.66, 0.02 - lift)], 0.15, look.main)
    pen.disc(0.66, 0.02 - lift, 0.095, look.second)
    look.skin_ellipse(pen, 0, shape.body_y, shape.body_rx, shape.body_ry)
    if look.extra == 1:
        pen.ellipse(0, 0.42, 0.21, 0.36, WHITE)
    _paws(pen, lighter(look.main, 0.3))
    pen.ellipse(0, 0.1, 0.3, 0.09, look.accent)
    if look.extra == 0:
        pen.disc(0, 0.2, 0.1, GOLD)
    if look.extra == 2:
        _bow(pen, 0, 0.16, 0.24, look.accent)
    for side in (-1, 1):
        tip = shape.head_rx * 0.86
        pen.polygon([(side * 0.06, -0.58), (side * tip, -1.0 - lift), (side * shape.head_rx, -0.34)], look.main)
        pen.polygon(
            [(side * 0.18, -0.6), (side * (tip - 0.05), -0.86 - lift), (side * (shape.head_rx - 0.1), -0.42)], PINK
        )
    look.skin_ellipse(pen, 0, shape.head_y, shape.head_rx, shape.head_ry)
    pen.ellipse(0, -0.12, 0.25, 0.14, lighter(look.main, 0.6))
    for side in (-1, 1):
        pen.ellipse(side * 0.22, -0.38, 0.125, 0.12, mix(look.accent, WHITE, 0.35))
        pen.ellipse(side * 0.22, -0.38, 0.05, 0.11, INK)
        pen.stroke([(side * 0.26, -0.14), (side * 0.66, -0.2)], 0.035, lighter(INK, 0.55))
        pen.stroke([(side * 0.26, -0.08), (side * 0.64, -0.02)], 0.035, lighter(INK, 0.55))
    pen.polygon([(-0.08, -0.22), (0.08, -0.22), (0, -0.12)], PINK)


def draw_stuffed_animal(pen: Pen, look: Look) -> None:
    """A sitting plush bear: round ears, arms wide, soles in the second colour, bow or heart in the accent colour."""
    girth = 0.05 * look.wide
    ear = 0.2 + 0.04 * look.tall
    for side in (-1, 1):
        pen.disc(side * 0.4, -0.74, ear, look.main)
        pen.disc(side * 0.4, -0.73, ear * 0.55, look.second)
        pen.ellipse(side * (0.6 + girth), 0.16, 0.2, 0.34, darker(look.main, 0.1), -side * 52)
    look.skin_ellipse(pen, 0, 0.36, 0.48 + girth, 0.48)
    pen.ellipse(0, 0.38, 0.29, 0.31, lighter(look.second, 0.25))
    for side in (-1, 1):
        pen.ellipse(side * (0.44 + girth), 0.78, 0.26, 0.23, look.main)
        pen.ellipse(side * (0.46 + girth), 0.8, 0.16, 0.14, look.second)
    look.skin_ellipse(pen, 0, -0.36, 0.48, 0.44)
    pen.ellipse(0, -0.2, 0.23, 0.18, lighter(look.second, 0.45))
    pen.ellipse(0, -0.27, 0.09, 0.065, INK)
    for side in (-1, 1):
        pen.disc(side * 0.21, -0.42, 0.08, INK)
    if look.extra == 0:
        _bow(pen, 0, 0.06, 0.34, look.accent)
    elif look.extra == 1:
        pen.disc(-0.09, 0.34, 0.12, look.accent)
        pen.disc(0.09, 0.34, 0.12, look.accent)
        pen.polygon([(-0.2, 0.38), (0.2, 0.38), (0, 0.62)], look.accent)
    else:
        pen.box(-0.4, 0.02, 0.4, 0.16, look.accent, corner=0.06)
        pen.box(0.12, 0.1, 0.28, 0.5, look.accent, corner=0.06)


def _paws(pen: Pen, colour: Colour) -> None:
    for side in (-1, 1):
        pen.ellipse(side * 0.21, 0.9, 0.17, 0.11, colour)


def _round_eyes(pen: Pen, x: float, y: float) -> None:
    for side in (-1, 1):
        pen.ellipse(side * x, y, 0.095, 0.11, INK)
        pen.disc(side * x + 0.03, y - 0.04, 0.04, WHITE)


def _bow(pen: Pen, x: float, y: float, size: float, colour: Colour) -> None:
    for side in (-1, 1):
        pen.polygon([(x, y), (x + side * size, y - size * 0.55), (x + side * size, y + size * 0.55)], colour)
    pen.disc(x, y, size * 0.3, darker(colour))
