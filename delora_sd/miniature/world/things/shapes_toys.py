"""Playthings: toy (robot, duck or car) and cartoon."""

from delora_sd.miniature.world.paint.canvas import Pen, box_points, smooth_closed
from delora_sd.miniature.world.paint.palette import INK, SILVER, WHITE, Colour, darker, lighter
from delora_sd.miniature.world.things.look import Look

SKY_GLASS: Colour = (170, 220, 245)
BEAK: Colour = (248, 140, 40)


def draw_toy(pen: Pen, look: Look) -> None:
    """A toy; its kind is part of the identity: robot, duck or car."""
    (_draw_robot, _draw_duck, _draw_car)[look.extra](pen, look)


def _draw_robot(pen: Pen, look: Look) -> None:
    half, head = 0.44 + 0.06 * look.wide, 0.38 + 0.05 * look.tall
    pen.stroke([(0, -0.7), (0, -0.9)], 0.08, INK)
    pen.disc(0, -0.92, 0.11, look.accent)
    for side in (-1, 1):
        pen.stroke(
            [(side * half, 0.0), (side * (half + 0.24), 0.26), (side * (half + 0.2), 0.5)],
            0.17,
            darker(look.main, 0.25),
        )
        pen.disc(side * (half + 0.2), 0.54, 0.13, look.accent)
        pen.box(side * 0.22 - 0.14, 0.56, side * 0.22 + 0.14, 0.94, darker(look.main, 0.3), corner=0.06)
        pen.box(side * 0.26 - 0.2, 0.82, side * 0.26 + 0.2, 1.0, look.second, corner=0.08)
    look.skin(pen, box_points(-half, -0.12, half, 0.68, 0.12))
    look.skin(pen, box_points(-head, -0.74, head, -0.16, 0.16))
    pen.box(-0.24, 0.08, 0.24, 0.44, look.second, corner=0.08)
    for x in (-0.12, 0.12):
        pen.disc(x, 0.26, 0.08, look.accent)
    for side in (-1, 1):
        pen.disc(side * 0.18, -0.5, 0.13, WHITE)
        pen.disc(side * 0.18, -0.5, 0.065, INK)
    pen.stroke([(-0.16, -0.28), (0, -0.24), (0.16, -0.28)], 0.07, INK)


def _draw_duck(pen: Pen, look: Look) -> None:
    fat, neck = 0.05 * look.wide, 0.05 * look.tall
    body = [
        (-0.95, 0.0),
        (-0.66, 0.2),
        (-0.2, 0.12),
        (0.3, 0.1),
        (0.68 + fat, 0.4),
        (0.46, 0.82),
        (-0.1, 0.9),
        (-0.66 - fat, 0.76),
    ]
    look.skin(pen, smooth_closed(body))
    pen.polygon([(0.62, -0.5), (1.02, -0.34), (0.62, -0.2)], BEAK)
    look.skin_ellipse(pen, 0.3, -0.36 - neck, 0.42, 0.42)
    pen.ellipse(-0.16, 0.46, 0.36, 0.2, look.second, 14)
    pen.disc(0.44, -0.46 - neck, 0.1, WHITE)
    pen.disc(0.46, -0.46 - neck, 0.065, INK)
    pen.stroke([(0.0, 0.02), (0.32, 0.1), (0.6, 0.0)], 0.12, look.accent)


def _draw_car(pen: Pen, look: Look) -> None:
    low, cabin = 0.05 * look.wide, 0.08 * look.tall
    pen.blob([(-0.5, 0.08), (-0.4, -0.42 - cabin), (0.34, -0.42 - cabin), (0.6, 0.08)], look.second)
    pen.blob([(-0.36, 0.02), (-0.28, -0.28 - cabin), (0.24, -0.28 - cabin), (0.42, 0.02)], SKY_GLASS)
    look.skin(pen, box_points(-0.98, -0.04, 0.98, 0.5 + low, 0.2))
    pen.disc(0.88, 0.16, 0.1, (255, 236, 150))
    pen.box(-0.3, 0.12, 0.3, 0.26, look.accent, corner=0.06)
    for x in (-0.55, 0.55):
        pen.disc(x, 0.52, 0.29, INK)
        pen.disc(x, 0.52, 0.14, look.accent)
    pen.stroke([(-0.8, 0.0), (-0.86, -0.66)], 0.05, SILVER)
    pen.disc(-0.86, -0.68, 0.08, look.accent)


def draw_cartoon(pen: Pen, look: Look) -> None:
    """A sticker of a grinning little monster: white border, horns and feet in the accent colour."""
    wide, tall = 0.62 + 0.06 * look.wide, 0.06 * look.tall
    _monster(pen, look, wide, tall, border=True)
    _monster(pen, look, wide, tall, border=False)
    if look.extra == 1:
        pen.disc(0, -0.28, 0.3, WHITE)
        pen.disc(0.02, -0.26, 0.14, INK)
    else:
        for side in (-1, 1):
            pen.ellipse(side * 0.24, -0.28, 0.21, 0.24, WHITE)
            pen.disc(side * 0.2, -0.25, 0.11, INK)
    pen.blob([(-0.4, 0.14), (0, 0.2), (0.4, 0.14), (0.26, 0.46), (0, 0.56), (-0.26, 0.46)], INK)
    pen.ellipse(0, 0.46, 0.17, 0.09, (240, 110, 120))
    pen.box(-0.26, 0.17, -0.08, 0.29, WHITE, corner=0.03)
    pen.box(0.08, 0.17, 0.26, 0.29, WHITE, corner=0.03)


def _monster(pen: Pen, look: Look, wide: float, tall: float, *, border: bool) -> None:
    """The monster's silhouette, or the wider white one that borders it."""
    extra, accent = (0.08, WHITE) if border else (0.0, look.accent)
    for side in (-1, 1):
        horn = [(side * 0.2, -0.56), (side * 0.56, -0.98 - tall - extra / 2), (side * (0.56 + extra), -0.36)]
        pen.polygon(horn, accent if look.extra != 2 or border else lighter(accent, 0.3))
        pen.ellipse(
            side * (wide + 0.12),
            0.2,
            0.16 + extra,
            0.12 + extra,
            WHITE if border else darker(look.main, 0.15),
            side * 40,
        )
        pen.ellipse(side * 0.28, 0.88, 0.24 + extra, 0.11 + extra, accent)
    if border:
        pen.ellipse(0, 0.04, wide + extra, 0.8 + extra, WHITE)
    else:
        look.skin_ellipse(pen, 0, 0.04, wide, 0.8)
