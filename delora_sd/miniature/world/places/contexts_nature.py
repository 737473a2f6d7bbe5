"""Landscapes: each function paints a whole background; large soft shapes, so that a small autoencoder keeps them."""

import math

import numpy as np

from delora_sd.miniature.world.paint.canvas import Pen
from delora_sd.miniature.world.paint.palette import WHITE, Colour, darker, lighter, mix

Rng = np.random.Generator


def backdrop(pen: Pen, top: Colour, bottom: Colour, y0: float = -1.0, y1: float = 1.0) -> None:
    """A vertical gradient between two heights."""
    bands = 12
    for band in range(bands):
        start = y0 + (y1 - y0) * band / bands
        pen.box(-1.1, start, 1.1, y1, mix(top, bottom, band / (bands - 1)))


def hills(pen: Pen, y: float, colour: Colour, rng: Rng, swell: float = 0.07) -> None:
    """Gently rolling ground from height `y` down."""
    phase = rng.uniform(0, 6.28)
    ridge = [(x, y + swell * math.sin(2.2 * x + phase)) for x in np.linspace(-1.1, 1.1, 12).tolist()]
    pen.polygon([*ridge, (1.1, 1.1), (-1.1, 1.1)], colour)


def sky(pen: Pen) -> None:
    """A pale blue sky."""
    pen.part = "sky"
    backdrop(pen, (126, 190, 240), (204, 230, 248), -1.0, 0.6)


def paint_jungle(pen: Pen, rng: Rng) -> None:
    pen.part = "plant"
    backdrop(pen, (12, 74, 44), (30, 104, 56))
    for x, y, tilt in (
        (-0.85, -0.75, 40),
        (0.85, -0.75, -40),
        (-0.95, 0.1, 75),
        (0.95, 0.1, -75),
        (-0.2, -0.98, 85),
        (0.4, -1.0, 105),
    ):
        bend = tilt + rng.uniform(-12, 12)
        pen.ellipse(x, y, 0.2, 0.5, (66, 164, 62), bend)
        pen.ellipse(x, y, 0.06, 0.42, (120, 200, 84), bend)
    pen.part = "grass"
    hills(pen, 0.74, (44, 120, 50), rng)


def paint_snow(pen: Pen, rng: Rng) -> None:
    pen.part = "sky"
    backdrop(pen, (164, 198, 232), (216, 230, 244))
    pen.part = "snow"
    hills(pen, 0.15, (232, 240, 250), rng)
    hills(pen, 0.55, (250, 252, 255), rng)
    pen.part = "sky"
    for x, y in ((-0.75, -0.7), (-0.35, -0.86), (0.1, -0.74), (0.55, -0.88), (0.85, -0.5), (-0.9, -0.2), (0.8, 0.02)):
        pen.disc(x + rng.uniform(-0.08, 0.08), y + rng.uniform(-0.08, 0.08), 0.065, WHITE)


def paint_beach(pen: Pen, rng: Rng) -> None:
    pen.part = "sky"
    backdrop(pen, (120, 200, 246), (196, 234, 250), -1.0, -0.2)
    pen.disc(rng.choice([-0.66, 0.66]), -0.7, 0.2, (255, 232, 110))
    pen.part = "water"
    pen.box(-1.1, -0.22, 1.1, 1.1, (28, 136, 206))
    pen.box(-1.1, 0.04, 1.1, 1.1, (64, 178, 220))
    hills(pen, 0.3, WHITE, rng, 0.04)
    pen.part = "sand"
    hills(pen, 0.38, (246, 216, 150), rng, 0.04)


def paint_mountain(pen: Pen, rng: Rng) -> None:
    sky(pen)
    x = rng.uniform(-0.25, 0.25)
    pen.part = "mountain"
    pen.polygon([(x - 1.3, 0.4), (x, -0.86), (x + 1.3, 0.4)], (116, 112, 146))
    pen.polygon(
        [(x - 0.36, -0.5), (x, -0.86), (x + 0.36, -0.5), (x + 0.14, -0.42), (x, -0.54), (x - 0.16, -0.4)], WHITE
    )
    pen.part = "grass"
    hills(pen, 0.36, (96, 176, 92), rng)


def paint_purple_rug_in_forest(pen: Pen, rng: Rng) -> None:
    pen.part = "plant"
    backdrop(pen, (34, 70, 54), (60, 96, 62))
    for x in (-0.86, -0.42, 0.04, 0.5, 0.92):
        x += rng.uniform(-0.07, 0.07)
        pen.box(x - 0.1, -1.1, x + 0.1, 0.36, (98, 70, 50))
    pen.ellipse(0, -1.0, 1.3, 0.3, (40, 100, 60))
    pen.part = "grass"
    hills(pen, 0.3, (72, 112, 60), rng)
    pen.part = "rug"
    pen.ellipse(0, 0.78, 0.96, 0.34, (104, 40, 158))
    pen.ellipse(0, 0.78, 0.78, 0.25, (140, 72, 196))


def paint_wheat_field(pen: Pen, rng: Rng) -> None:
    pen.part = "sky"
    backdrop(pen, (150, 206, 244), (226, 236, 238), -1.0, 0.0)
    pen.part = "field"
    pen.box(-1.1, -0.16, 1.1, 1.1, (232, 190, 78))
    for row, y in enumerate((-0.02, 0.3, 0.66)):
        for x in np.arange(-1.0, 1.1, 0.4).tolist():
            x += 0.2 * (row % 2) + rng.uniform(-0.05, 0.05)
            pen.ellipse(x, y, 0.065, 0.2, (250, 220, 124), 8)
            pen.ellipse(x + 0.18, y + 0.08, 0.06, 0.18, (206, 156, 52), -8)


def paint_autumn_tree(pen: Pen, rng: Rng) -> None:
    pen.part = "sky"
    backdrop(pen, (248, 232, 200), (252, 242, 222))
    x = rng.choice([-0.5, 0.5])
    pen.part = "plant"
    pen.box(x - 0.14, -0.4, x + 0.14, 0.5, (112, 74, 50))
    for dx, dy, colour in (
        (-0.36, -0.5, (226, 96, 36)),
        (0.36, -0.5, (236, 126, 40)),
        (0.0, -0.76, (244, 164, 50)),
        (0.0, -0.38, (206, 70, 40)),
    ):
        pen.disc(x + dx, dy, 0.36, colour)
    pen.part = "earth"
    hills(pen, 0.42, (214, 132, 52), rng)
    for leaf in range(6):
        pen.ellipse(
            -0.9 + 0.36 * leaf + rng.uniform(-0.1, 0.1),
            rng.uniform(0.55, 0.95),
            0.11,
            0.07,
            ((196, 56, 40), (250, 186, 60))[leaf % 2],
            rng.uniform(0, 90),
        )


def paint_water(pen: Pen, rng: Rng) -> None:
    pen.part = "water"
    backdrop(pen, (60, 150, 214), (24, 96, 178))
    _ripples(pen, rng, (120, 196, 240))


def paint_milk(pen: Pen, rng: Rng) -> None:
    pen.part = "milk"
    backdrop(pen, (255, 250, 238), (244, 236, 220))
    _ripples(pen, rng, (226, 214, 194))


def _ripples(pen: Pen, rng: Rng, colour: Colour) -> None:
    for row, y in enumerate((-0.82, -0.48, -0.14, 0.2, 0.54)):
        shift = 0.3 * (row % 2) + rng.uniform(-0.15, 0.15)
        for x in (-0.9 + shift, 0.1 + shift):
            pen.stroke([(x - 0.3, y), (x - 0.12, y - 0.06), (x + 0.12, y + 0.04), (x + 0.34, y)], 0.08, colour)


def cover_water(pen: Pen, rng: Rng) -> None:
    """The water in front of a floating subject."""
    pen.part = "water"
    _cover(pen, (24, 100, 182), (150, 212, 246))


def cover_milk(pen: Pen, rng: Rng) -> None:
    """The milk in front of a floating subject."""
    pen.part = "milk"
    _cover(pen, (246, 238, 222), (255, 253, 246))


def _cover(pen: Pen, colour: Colour, foam: Colour) -> None:
    crest = [(x, 0.66 - 0.08 * math.cos(2.2 * x)) for x in np.linspace(-1.1, 1.1, 14).tolist()]
    pen.polygon([*[(x, y - 0.07) for x, y in crest[2:-2]], *reversed(crest[2:-2])], foam)
    pen.polygon([*crest, (1.1, 1.1), (-1.1, 1.1)], colour)
    pen.stroke([(-0.7, 0.84), (-0.4, 0.8), (-0.1, 0.86)], 0.07, mix(colour, foam, 0.5))
    pen.stroke([(0.2, 0.9), (0.5, 0.85), (0.8, 0.9)], 0.07, mix(colour, foam, 0.5))


def paint_sunflowers(pen: Pen, rng: Rng) -> None:
    pen.part = "grass"
    backdrop(pen, (124, 196, 84), (84, 164, 64))
    pen.part = "flower"
    for x, y in ((-0.78, -0.72), (-0.02, -0.84), (0.76, -0.7), (-0.84, 0.06), (0.84, 0.1), (-0.76, 0.8), (0.78, 0.82)):
        x, y = x + rng.uniform(-0.05, 0.05), y + rng.uniform(-0.05, 0.05)
        pen.disc(x, y, 0.24, (252, 200, 40))
        pen.disc(x, y, 0.12, (116, 70, 40))


def paint_dirt_road(pen: Pen, rng: Rng) -> None:
    sky(pen)
    pen.part = "grass"
    hills(pen, -0.1, (120, 168, 84), rng)
    x = rng.uniform(-0.12, 0.12)
    pen.part = "earth"
    pen.polygon([(x - 0.16, -0.1), (x + 0.16, -0.1), (1.0, 1.1), (-1.0, 1.1)], (176, 128, 84))
    pen.polygon([(x - 0.05, -0.1), (x + 0.05, -0.1), (0.34, 1.1), (-0.34, 1.1)], lighter((176, 128, 84), 0.2))
    pen.part = "plant"
    pen.ellipse(-0.9, -0.1, 0.3, 0.2, darker((120, 168, 84), 0.2))
    pen.ellipse(0.86, -0.08, 0.34, 0.22, darker((120, 168, 84), 0.2))
