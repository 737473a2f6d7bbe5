"""Things people wear or carry: backpack, sneaker, boot and glasses."""

from delora_sd.miniature.world.paint.canvas import Pen, box_points, ellipse_points
from delora_sd.miniature.world.paint.palette import INK, WHITE, darker, lighter, mix
from delora_sd.miniature.world.things.look import Look


def draw_backpack(pen: Pen, look: Look) -> None:
    """A backpack from the front: handle, flap, side pockets and a front pocket with its zip."""
    half, top = 0.58 + 0.07 * look.wide, -0.68 - 0.1 * look.tall
    pen.stroke([(-0.2, top + 0.06), (-0.16, top - 0.2), (0.16, top - 0.2), (0.2, top + 0.06)], 0.11, look.accent)
    for side in (-1, 1):
        pen.box(side * half - 0.16, 0.1, side * half + 0.16, 0.8, darker(look.main, 0.25), corner=0.12)
    look.skin(pen, box_points(-half, top, half, 0.96, 0.34))
    pen.box(-half + 0.1, 0.16, half - 0.1, 0.82, look.second, corner=0.16)
    pen.stroke([(-half + 0.2, 0.34), (half - 0.2, 0.34)], 0.07, darker(look.second, 0.45))
    if look.extra == 0:
        for side in (-1, 1):
            pen.box(side * 0.28 - 0.07, top + 0.14, side * 0.28 + 0.07, 0.3, look.accent, corner=0.05)
    elif look.extra == 1:
        pen.disc(0, -0.26, 0.22, look.accent)
        pen.disc(0, -0.26, 0.1, lighter(look.accent, 0.6))
    else:
        for side in (-1, 1):
            pen.ellipse(side * half * 0.8, top + 0.1, 0.16, 0.24, look.accent, side * 30)
            pen.disc(side * 0.2, -0.26, 0.09, INK)
        pen.ellipse(0, -0.08, 0.12, 0.08, INK)


def draw_sneaker(pen: Pen, look: Look) -> None:
    """A sneaker from the side: white sole, toe cap in the second colour, laces and side marks in the accent colour."""
    rise = -0.62 - 0.14 * look.tall
    pen.blob(
        [(-0.85, rise + 0.06), (-0.2, rise + 0.06), (-0.3, rise + 0.34), (-0.8, rise + 0.3)], darker(look.main, 0.5)
    )
    upper = [(-0.9, rise), (-0.88, 0.4), (0.9, 0.42), (0.98, 0.14), (0.72, -0.04), (0.3, -0.18), (-0.12, rise + 0.06)]
    upper += [(-0.3, rise + 0.3), (-0.62, rise + 0.26)]
    look.skin(pen, upper)
    pen.blob([(0.6, -0.05), (0.98, 0.1), (0.98, 0.42), (0.56, 0.42), (0.5, 0.18)], look.second)
    pen.box(-0.96, 0.36, 1.02, 0.6 + 0.04 * look.wide, WHITE, corner=0.1)
    pen.stroke([(-0.94, 0.6), (1.0, 0.6)], 0.09, look.accent)
    for step in range(3):
        x, y = -0.06 + 0.19 * step, rise * (0.62 - 0.22 * step)
        pen.stroke([(x - 0.13, y + 0.1), (x + 0.07, y - 0.04)], 0.08, WHITE)
    if look.extra == 0:
        pen.stroke([(-0.62, 0.0), (-0.3, 0.24), (0.3, -0.02)], 0.13, look.accent)
    elif look.extra == 1:
        for x in (-0.6, -0.36, -0.12):
            pen.stroke([(x, 0.26), (x + 0.14, -0.1)], 0.11, look.accent)
    else:
        pen.disc(-0.5, 0.02, 0.2, look.accent)


def draw_boot(pen: Pen, look: Look) -> None:
    """A tall boot from the side: cuff in the second colour, dark sole with a heel, buckle in the accent colour."""
    wide, top = 0.06 * look.wide, -0.86 - 0.1 * look.tall
    leg = [(-0.52 - wide, top), (0.2 + wide, top), (0.16, 0.05), (0.42, 0.28), (0.86, 0.42)]
    look.skin_blob(pen, [*leg, (0.9, 0.76), (0.2, 0.8), (-0.5, 0.8), (-0.46, 0.1)])
    pen.box(-0.58 - wide, top - 0.06, 0.27 + wide, top + 0.22, look.second, corner=0.1)
    pen.box(-0.56, 0.72, 0.95, 0.86, INK, corner=0.06)
    pen.polygon([(-0.56, 0.8), (-0.12, 0.8), (-0.18, 1.0), (-0.54, 1.0)], INK)
    if look.extra == 0:
        pen.box(-0.52, 0.1, 0.22, 0.26, look.accent, corner=0.04)
        pen.disc(-0.02, 0.18, 0.12, lighter(look.accent, 0.6))
    elif look.extra == 1:
        for y in (-0.4, -0.14, 0.12):
            pen.stroke([(-0.14, y), (0.18, y - 0.06)], 0.09, look.accent)
    else:
        pen.blob([(0.5, 0.3), (0.92, 0.48), (0.9, 0.74), (0.52, 0.74)], look.accent)


def draw_glasses(pen: Pen, look: Look) -> None:
    """A pair of glasses from the front: round, square or heart-like frames with tinted lenses."""
    rx, ry = 0.38 + 0.04 * look.wide, 0.36 + 0.06 * look.tall
    for side in (-1, 1):
        pen.stroke([(side * 0.8, -0.1), (side * 0.98, -0.36), (side * 0.9, -0.56)], 0.12, darker(look.main, 0.25))
    pen.stroke([(-0.2, -0.02), (0, -0.14), (0.2, -0.02)], 0.13, look.main)
    tint = mix(look.second, WHITE, 0.25)
    for side in (-1, 1):
        x = side * 0.48
        if look.extra == 0:
            look.skin_ellipse(pen, x, 0.04, rx + 0.09, ry + 0.09)
            pen.ellipse(x, 0.04, rx - 0.08, ry - 0.08, tint)
        elif look.extra == 1:
            look.skin(pen, box_points(x - rx - 0.08, -ry, x + rx + 0.08, ry + 0.06, 0.14))
            pen.box(x - rx + 0.08, -ry + 0.16, x + rx - 0.08, ry - 0.1, tint, corner=0.1)
        else:
            _winged_lens(pen, look, x, side, rx, ry)
        pen.stroke([(x - 0.16, 0.1), (x + 0.04, -0.14)], 0.08, lighter(tint, 0.75))


def _winged_lens(pen: Pen, look: Look, x: float, side: int, rx: float, ry: float) -> None:
    outer = [
        (x + side * (rx + 0.12), -ry - 0.16),
        (x - side * rx, -ry + 0.04),
        (x - side * rx, ry - 0.06),
        (x, ry + 0.1),
        (x + side * rx, ry - 0.1),
    ]
    look.skin_blob(pen, outer)
    pen.polygon(ellipse_points(x, 0.04, rx - 0.12, ry - 0.12), mix(look.second, WHITE, 0.25))
