"""Man-made places: streets, floors, fabrics and buildings; each function paints a whole background."""

import math

import numpy as np

from delora_sd.miniature.world.paint.canvas import Pen
from delora_sd.miniature.world.paint.palette import WHITE, Colour, darker, lighter, mix
from delora_sd.miniature.world.places.contexts_nature import Rng, backdrop, hills, sky

STUDIO_TINTS: tuple[Colour, ...] = (
    (248, 226, 204), (214, 232, 244), (226, 240, 214), (240, 220, 236), (246, 240, 206), (224, 224, 232),
)  # fmt: skip


def paint_studio(pen: Pen, rng: Rng) -> None:
    """A plain pastel backdrop: where a caption names no place."""
    tint = STUDIO_TINTS[int(rng.integers(len(STUDIO_TINTS)))]
    pen.part = "wall"
    backdrop(pen, lighter(tint, 0.25), tint)
    pen.part = "floor"
    pen.box(-1.1, 0.4, 1.1, 1.1, mix(tint, (150, 130, 120), 0.22))


def paint_cobblestone(pen: Pen, rng: Rng) -> None:
    pen.part = "pavement"
    backdrop(pen, (122, 118, 124), (130, 126, 130))
    for row in range(5):
        y = -0.84 + 0.44 * row
        for column in range(5):
            x = -1.0 + 0.5 * column + 0.25 * (row % 2)
            shade = int(rng.integers(150, 182))
            pen.ellipse(x, y, 0.225, 0.19, (shade, shade - 3, shade + 2))


def paint_pink_fabric(pen: Pen, rng: Rng) -> None:
    pen.part = "fabric"
    backdrop(pen, (250, 150, 192), (242, 124, 176))
    phase = rng.uniform(0, 0.5)
    for fold in range(4):
        x = -1.3 + 0.72 * fold + phase
        pen.stroke([(x, -1.1), (x + 0.16, -0.4), (x - 0.06, 0.3), (x + 0.12, 1.1)], 0.22, (252, 168, 204))
        pen.stroke([(x + 0.26, -1.1), (x + 0.42, -0.4), (x + 0.2, 0.3), (x + 0.38, 1.1)], 0.12, (232, 110, 166))


def paint_wooden_floor(pen: Pen, rng: Rng) -> None:
    pen.part = "floor"
    backdrop(pen, (196, 136, 78), (196, 136, 78))
    for row in range(4):
        y = -1.0 + 0.5 * row
        pen.box(-1.1, y, 1.1, y + 0.5, mix((204, 146, 86), (172, 112, 60), float(rng.uniform(0, 1))))
        pen.box(-1.1, y - 0.03, 1.1, y + 0.03, (126, 78, 40))
        x = rng.uniform(-0.8, 0.8)
        pen.box(x - 0.03, y, x + 0.03, y + 0.5, (126, 78, 40))


def paint_city(pen: Pen, rng: Rng) -> None:
    pen.part = "sky"
    backdrop(pen, (188, 214, 238), (236, 232, 224), -1.0, 0.6)
    pen.part = "building"
    for index, x in enumerate((-0.84, -0.42, 0.0, 0.42, 0.84)):
        top = rng.uniform(-0.9, -0.3)
        colour = ((92, 108, 140), (122, 134, 160))[index % 2]
        pen.box(x - 0.2, top, x + 0.2, 0.5, colour)
        for y in np.arange(top + 0.16, 0.3, 0.34).tolist():
            pen.box(x - 0.1, y, x + 0.1, y + 0.15, (232, 220, 176))
    pen.part = "pavement"
    pen.box(-1.1, 0.42, 1.1, 1.1, (110, 110, 116))


def paint_blue_house(pen: Pen, rng: Rng) -> None:
    sky(pen)
    x = rng.choice([-0.34, 0.34])
    pen.part = "building"
    pen.box(x - 0.6, -0.4, x + 0.6, 0.5, (44, 104, 206))
    pen.polygon([(x - 0.74, -0.4), (x, -0.98), (x + 0.74, -0.4)], (154, 74, 60))
    for side in (-1, 1):
        pen.box(x + side * 0.36 - 0.14, -0.22, x + side * 0.36 + 0.14, 0.08, (255, 242, 190))
    pen.part = "grass"
    hills(pen, 0.44, (102, 178, 88), rng, 0.03)


def paint_eiffel_tower(pen: Pen, rng: Rng) -> None:
    pen.part = "sky"
    backdrop(pen, (170, 206, 240), (250, 228, 214), -1.0, 0.6)
    x = rng.choice([-0.42, 0.42]) + rng.uniform(-0.06, 0.06)
    iron = (108, 88, 80)
    pen.part = "building"
    for side in (-1, 1):
        pen.stroke([(x + side * 0.46, 0.5), (x + side * 0.17, -0.2), (x, -1.0)], 0.12, iron)
    pen.box(x - 0.3, 0.02, x + 0.3, 0.11, iron)
    pen.box(x - 0.18, -0.4, x + 0.18, -0.32, iron)
    pen.part = "grass"
    hills(pen, 0.44, (120, 180, 100), rng, 0.03)


def paint_mirror(pen: Pen, rng: Rng) -> None:
    pen.part = "wall"
    backdrop(pen, (236, 222, 206), (222, 204, 186))
    pen.part = "mirror"
    pen.ellipse(0, 0.46, 1.0, 0.5, (198, 158, 84))
    pen.ellipse(0, 0.46, 0.9, 0.42, (186, 218, 236))
    x = rng.uniform(-0.1, 0.1)
    pen.polygon([(-0.62 + x, 0.66), (-0.44 + x, 0.74), (-0.16 + x, 0.2), (-0.3 + x, 0.16)], (224, 242, 250))
    pen.polygon([(0.4 + x, 0.7), (0.5 + x, 0.66), (0.66 + x, 0.24), (0.56 + x, 0.22)], (224, 242, 250))


def paint_crowded_street(pen: Pen, rng: Rng) -> None:
    pen.part = "wall"
    backdrop(pen, (232, 220, 206), (216, 202, 190), -1.0, 0.3)
    coats = ((206, 70, 66), (70, 110, 190), (240, 186, 70), (86, 150, 100), (150, 90, 160))
    order = rng.permutation(5)
    pen.part = "person"
    for index, x in enumerate((-0.86, -0.43, 0.0, 0.43, 0.86)):
        x, y = x + rng.uniform(-0.06, 0.06), rng.uniform(-0.5, -0.34)
        pen.box(x - 0.19, y, x + 0.19, 0.4, coats[order[index]], corner=0.14)
        pen.disc(x, y - 0.14, 0.15, ((238, 196, 164), (150, 102, 74))[index % 2])
    pen.part = "pavement"
    pen.box(-1.1, 0.28, 1.1, 1.1, (178, 176, 178))
    pen.box(-1.1, 0.6, 1.1, 0.65, (140, 138, 142))
    for x in (-0.5, 0.5):
        pen.polygon(
            [(x * 0.7 - 0.025, 0.28), (x * 0.7 + 0.025, 0.28), (x * 1.3 + 0.03, 1.1), (x * 1.3 - 0.03, 1.1)],
            (140, 138, 142),
        )


def paint_white_rug(pen: Pen, rng: Rng) -> None:
    pen.part = "wall"
    backdrop(pen, (150, 168, 176), (166, 182, 188), -1.0, 0.1)
    pen.part = "floor"
    pen.box(-1.1, 0.06, 1.1, 1.1, (166, 116, 80))
    turn = rng.uniform(0, 1)
    pen.part = "rug"
    for bump in range(14):
        angle = 2 * math.pi * (bump + turn) / 14
        pen.disc(0.86 * math.cos(angle), 0.64 + 0.3 * math.sin(angle), 0.13, (246, 244, 240))
    pen.ellipse(0, 0.64, 0.9, 0.33, WHITE)
    pen.ellipse(0, 0.66, 0.62, 0.2, darker(WHITE, 0.06))
