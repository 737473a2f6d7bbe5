"""Things of the house: bowl, can, candle, clock, teapot and vase."""

import math

from delora_sd.miniature.world.paint.canvas import Pen, ellipse_points
from delora_sd.miniature.world.paint.palette import GOLD, INK, SILVER, WHITE, Colour, darker, lighter
from delora_sd.miniature.world.things.look import Look

LEAF: Colour = (70, 160, 70)


def _lower_half(x: float, y: float, rx: float, ry: float) -> list[tuple[float, float]]:
    return [(x + rx * math.cos(a * math.pi / 16), y + ry * math.sin(a * math.pi / 16)) for a in range(17)]


def draw_bowl(pen: Pen, look: Look) -> None:
    """A bowl full of berries in the accent colour."""
    wide, deep = 0.84 + 0.07 * look.wide, 0.84 + 0.12 * look.tall
    pen.box(-0.36, 0.62, 0.36, 0.84, darker(look.main, 0.25), corner=0.08)
    pen.ellipse(0, -0.06, wide, 0.24, darker(look.main, 0.4))
    rows = ((-0.44, -0.14, 0.22), (0.0, -0.2, 0.24), (0.44, -0.14, 0.22), (-0.22, -0.4, 0.22), (0.22, -0.4, 0.22))
    for x, y, radius in rows if look.extra else rows[:3]:
        pen.disc(x, y, radius, look.accent)
        pen.disc(x - 0.06, y - 0.07, 0.06, lighter(look.accent, 0.6))
    if look.extra == 2:
        pen.ellipse(0.1, -0.66, 0.2, 0.09, LEAF, -30)
    look.skin(pen, _lower_half(0, -0.06, wide, deep))
    pen.stroke([(-wide + 0.02, -0.04), (-0.5, 0.1), (0, 0.14), (0.5, 0.1), (wide - 0.02, -0.04)], 0.12, look.second)


def draw_can(pen: Pen, look: Look) -> None:
    """A drinks can: silver lid, label band and an emblem in the accent colour."""
    half, top = 0.46 + 0.08 * look.wide, -0.76 - 0.1 * look.tall
    body = [(-half, top), (half, top), (half, 0.8), *_lower_half(0, 0.8, half, 0.16)[1:-1], (-half, 0.8)]
    look.skin(pen, body)
    pen.stroke([(-half + 0.05, 0.84), (0, 0.95), (half - 0.05, 0.84)], 0.08, SILVER)
    pen.ellipse(0, top, half, 0.17, SILVER)
    pen.ellipse(0, top, half * 0.78, 0.11, darker(SILVER, 0.25))
    pen.ellipse(0.05, top, 0.15, 0.05, WHITE)
    if look.extra == 0:
        pen.disc(0, 0.06, 0.3, look.accent)
        pen.disc(0, 0.06, 0.15, lighter(look.accent, 0.7))
    elif look.extra == 1:
        pen.polygon([(0, -0.34), (0.3, 0.06), (0, 0.46), (-0.3, 0.06)], look.accent)
    else:
        pen.stroke([(-half + 0.06, 0.2), (-0.16, -0.1), (0.16, 0.26), (half - 0.06, -0.06)], 0.2, look.accent)


def draw_candle(pen: Pen, look: Look) -> None:
    """A burning candle on a dish in the accent colour."""
    half, top = 0.3 + 0.06 * look.wide, -0.24 - 0.1 * look.tall
    pen.stroke([(0.5, 0.84), (0.88, 0.8), (0.86, 0.58), (0.6, 0.62)], 0.1, look.accent)
    pen.ellipse(0, 0.84, 0.66, 0.16, look.accent)
    look.skin(pen, [(-half, top), (half, top), (half, 0.78), *_lower_half(0, 0.78, half, 0.1)[1:-1], (-half, 0.78)])
    pen.ellipse(0, top, half, 0.1, lighter(look.main, 0.5))
    if look.extra > 0:
        for x, length in ((-0.18, 0.32), (0.14, 0.5), (0.22, 0.24))[: look.extra + 1]:
            pen.stroke([(x, top + 0.05), (x, top + length)], 0.15, lighter(look.main, 0.5))
    pen.stroke([(0, top), (0, top - 0.16)], 0.07, INK)
    pen.blob(
        [(0, top - 0.68), (0.18, top - 0.26), (0.1, top - 0.06), (-0.1, top - 0.06), (-0.18, top - 0.26)],
        (250, 150, 40),
    )
    pen.blob([(0, top - 0.46), (0.09, top - 0.22), (0, top - 0.08), (-0.09, top - 0.22)], (255, 236, 130))


def draw_clock(pen: Pen, look: Look) -> None:
    """An alarm clock: two bells in the accent colour, a white dial and hands at the subject's own hour."""
    radius = 0.7 + 0.05 * look.wide
    for side in (-1, 1):
        pen.stroke([(side * 0.4, 0.7), (side * 0.56, 0.94)], 0.15, darker(look.main, 0.4))
        pen.ellipse(side * 0.42, -0.66, 0.3, 0.22 + 0.04 * look.tall, look.accent, side * 32)
    pen.stroke([(0, -0.6), (0, -0.86)], 0.1, INK)
    pen.disc(0, -0.88, 0.1, INK)
    look.skin_ellipse(pen, 0, 0.1, radius, radius)
    pen.disc(0, 0.1, radius - 0.19, WHITE)
    for hour in range(4):
        angle = hour * math.pi / 2
        pen.disc(0.42 * math.cos(angle), 0.1 + 0.42 * math.sin(angle), 0.05, look.second)
    hour_hand = ((0.2, 0.02), (-0.2, 0.0), (0.0, 0.34))[look.extra]
    pen.stroke([(0, 0.1), (hour_hand[0], hour_hand[1] + 0.02)], 0.1, INK)
    pen.stroke([(0, 0.1), ((0.0, 0.14, -0.3)[look.extra], (-0.28, -0.22, -0.02)[look.extra])], 0.08, INK)
    pen.disc(0, 0.1, 0.075, look.second)


def draw_teapot(pen: Pen, look: Look) -> None:
    """A teapot: spout to the right, handle in the accent colour, lid in the second colour."""
    round_x, round_y = 0.58 + 0.06 * look.wide, 0.5 + 0.07 * look.tall
    pen.stroke([(-0.44, -0.14), (-0.86, -0.2), (-0.94, 0.22), (-0.5, 0.46)], 0.15, look.accent)
    pen.polygon([(0.36, 0.5), (0.42, 0.06), (0.8, -0.36), (1.0, -0.34), (0.74, 0.24)], darker(look.main, 0.12))
    look.skin_ellipse(pen, 0, 0.22, round_x, round_y)
    pen.box(-0.36, 0.64, 0.36, 0.8, darker(look.main, 0.3), corner=0.07)
    pen.ellipse(0, 0.22 - round_y + 0.04, 0.4, 0.17, look.second)
    pen.disc(0, 0.02 - round_y, 0.13, look.accent)
    if look.extra == 1:
        _flower(pen, 0, 0.24, 0.15, lighter(look.accent, 0.15))
    elif look.extra == 2:
        pen.stroke([(-round_x + 0.08, 0.36), (0, 0.48), (round_x - 0.08, 0.36)], 0.14, look.accent)


def draw_vase(pen: Pen, look: Look) -> None:
    """A vase with flowers in the accent colour (three, one, or tulip leaves)."""
    belly, neck = 0.46 + 0.08 * look.wide, 0.22 + 0.05 * look.tall
    stems = ((-0.34, -0.72), (0.0, -0.86), (0.36, -0.7)) if look.extra != 1 else ((0.0, -0.82),)
    for x, y in stems:
        pen.stroke([(x * 0.3, 0.0), (x, y)], 0.07, LEAF)
    if look.extra == 2:
        pen.ellipse(-0.3, -0.34, 0.12, 0.3, LEAF, -35)
        pen.ellipse(0.3, -0.34, 0.12, 0.3, LEAF, 35)
    for x, y in stems:
        _flower(pen, x, y, 0.13 if look.extra != 1 else 0.18, look.accent)
    shape = [
        (-neck - 0.1, -0.22),
        (-neck, -0.04),
        (-belly, 0.4),
        (-0.28, 0.94),
        (0.28, 0.94),
        (belly, 0.4),
        (neck, -0.04),
        (neck + 0.1, -0.22),
    ]
    look.skin_blob(pen, shape)
    pen.ellipse(0, -0.22, neck + 0.1, 0.08, darker(look.main, 0.35))
    pen.polygon(ellipse_points(0, 0.94, 0.3, 0.06), darker(look.main, 0.25))


def _flower(pen: Pen, x: float, y: float, radius: float, colour: Colour) -> None:
    for petal in range(5):
        angle = 2 * math.pi * petal / 5
        pen.disc(x + radius * math.cos(angle), y + radius * math.sin(angle), radius * 0.78, colour)
    pen.disc(x, y, radius * 0.6, GOLD if colour != GOLD else WHITE)
