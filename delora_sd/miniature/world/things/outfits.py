"""What a live subject can wear: the ten outfit prompts of the benchmark, drawn over a dog or a cat."""

from collections.abc import Callable

from delora_sd.miniature.world.paint.canvas import Pen, ellipse_points
from delora_sd.miniature.world.paint.palette import GOLD, INK, WHITE, Colour, darker
from delora_sd.miniature.world.things.shapes_animals import Figure

RED: Colour = (224, 40, 44)
NAVY: Colour = (38, 56, 130)
PURPLE: Colour = (124, 52, 186)
HOT_PINK: Colour = (255, 90, 170)
YELLOW: Colour = (255, 214, 40)


def _brow(figure: Figure) -> float:
    """The height at which a hat sits."""
    return figure.head_y - figure.head_ry * 0.62


def _garment(pen: Pen, figure: Figure, colour: Colour) -> None:
    """A shirt over the body with two sleeves."""
    for side in (-1, 1):
        pen.ellipse(side * figure.body_rx * 0.9, 0.42, 0.17, 0.26, darker(colour, 0.12), -side * 30)
    pen.polygon(ellipse_points(0, figure.body_y - 0.04, figure.body_rx + 0.06, 0.42), colour)


def _red_hat(pen: Pen, figure: Figure) -> None:
    y = _brow(figure)
    pen.box(-0.38, y - 0.4, 0.38, y, RED, corner=0.2)
    pen.ellipse(0, y, 0.64, 0.11, darker(RED, 0.15))


def _santa_hat(pen: Pen, figure: Figure) -> None:
    y = _brow(figure)
    pen.blob([(-0.42, y), (-0.1, y - 0.5), (0.4, y - 0.52), (0.66, y - 0.12), (0.5, y - 0.18), (0.42, y)], RED)
    pen.box(-0.5, y - 0.1, 0.5, y + 0.09, WHITE, corner=0.09)
    pen.disc(0.64, y - 0.1, 0.14, WHITE)


def _rainbow_scarf(pen: Pen, figure: Figure) -> None:
    rows = ((226, 50, 50), (250, 170, 40), (250, 224, 60), (60, 176, 80), (60, 110, 224))
    for row, colour in enumerate(rows):
        pen.stroke([(-0.36, 0.0 + 0.07 * row), (0, 0.08 + 0.07 * row), (0.36, 0.0 + 0.07 * row)], 0.09, colour)
        pen.box(0.12 + 0.07 * row, 0.2, 0.2 + 0.07 * row, 0.74, colour)


def _top_hat_and_monocle(pen: Pen, figure: Figure) -> None:
    y = _brow(figure)
    pen.box(-0.34, y - 0.52, 0.34, y, INK, corner=0.03)
    pen.box(-0.34, y - 0.18, 0.34, y - 0.06, (150, 40, 50))
    pen.ellipse(0, y, 0.6, 0.09, INK)
    pen.disc(0.21, figure.head_y - 0.09, 0.2, GOLD)
    pen.disc(0.21, figure.head_y - 0.09, 0.145, (226, 240, 250))
    pen.disc(0.21, figure.head_y - 0.09, 0.075, INK)


def _chef_outfit(pen: Pen, figure: Figure) -> None:
    y = _brow(figure)
    _garment(pen, figure, (250, 250, 250))
    for x in (-0.1, 0.1):
        for height in (0.34, 0.56):
            pen.disc(x, height, 0.05, INK)
    pen.polygon([(-0.22, 0.08), (0.22, 0.08), (0, 0.28)], RED)
    for x, lift in ((-0.26, 0.3), (0.26, 0.3), (0.0, 0.4)):
        pen.disc(x, y - lift, 0.26, WHITE)
    pen.box(-0.34, y - 0.3, 0.34, y + 0.04, (236, 238, 242), corner=0.04)


def _firefighter_outfit(pen: Pen, figure: Figure) -> None:
    y = _brow(figure)
    _garment(pen, figure, (60, 50, 52))
    pen.box(-figure.body_rx, 0.5, figure.body_rx, 0.64, YELLOW)
    pen.box(-0.07, 0.12, 0.07, 0.88, YELLOW)
    pen.blob([(-0.44, y), (-0.36, y - 0.34), (0, y - 0.48), (0.36, y - 0.34), (0.44, y)], RED)
    pen.ellipse(0, y + 0.01, 0.62, 0.1, darker(RED, 0.25))
    pen.polygon([(-0.14, y - 0.3), (0.14, y - 0.3), (0.1, y - 0.04), (-0.1, y - 0.04)], YELLOW)


def _police_outfit(pen: Pen, figure: Figure) -> None:
    y = _brow(figure)
    _garment(pen, figure, NAVY)
    pen.polygon([(-0.24, 0.26), (-0.06, 0.26), (-0.15, 0.5)], GOLD)
    pen.stroke([(0, 0.16), (0, 0.7)], 0.09, INK)
    pen.blob([(-0.4, y - 0.02), (-0.58, y - 0.3), (0, y - 0.44), (0.58, y - 0.3), (0.4, y - 0.02)], NAVY)
    pen.ellipse(0, y, 0.44, 0.09, INK)
    pen.disc(0, y - 0.2, 0.11, GOLD)


def _pink_glasses(pen: Pen, figure: Figure) -> None:
    y = figure.head_y - 0.09
    pen.stroke([(-0.1, y), (0.1, y)], 0.1, HOT_PINK)
    for side in (-1, 1):
        pen.disc(side * 0.25, y, 0.23, HOT_PINK)
        pen.disc(side * 0.25, y, 0.13, (255, 226, 240))
        pen.disc(side * 0.22, y, 0.07, INK)


def _yellow_shirt(pen: Pen, figure: Figure) -> None:
    _garment(pen, figure, YELLOW)
    pen.ellipse(0, 0.1, 0.24, 0.09, darker(YELLOW, 0.2))


def _wizard_outfit(pen: Pen, figure: Figure) -> None:
    y = _brow(figure)
    pen.polygon([(-0.34, 0.06), (0.34, 0.06), (0.72, 0.98), (-0.72, 0.98)], PURPLE)
    for x, height in ((-0.26, 0.7), (0.24, 0.52), (0.02, 0.84)):
        pen.disc(x, height, 0.075, GOLD)
    pen.polygon([(-0.42, y), (0.42, y), (0.1, y - 0.72)], PURPLE)
    pen.ellipse(0, y, 0.64, 0.1, darker(PURPLE, 0.2))
    pen.disc(-0.04, y - 0.24, 0.09, GOLD)


OUTFITS: dict[str, tuple[str, Callable[[Pen, Figure], None]]] = {
    "red_hat": ("wearing a red hat", _red_hat),
    "santa_hat": ("wearing a santa hat", _santa_hat),
    "rainbow_scarf": ("wearing a rainbow scarf", _rainbow_scarf),
    "top_hat": ("wearing a black top hat and a monocle", _top_hat_and_monocle),
    "chef": ("in a chef outfit", _chef_outfit),
    "firefighter": ("in a firefighter outfit", _firefighter_outfit),
    "police": ("in a police outfit", _police_outfit),
    "pink_glasses": ("wearing pink glasses", _pink_glasses),
    "yellow_shirt": ("wearing a yellow shirt", _yellow_shirt),
    "wizard": ("in a purple wizard outfit", _wizard_outfit),
}
