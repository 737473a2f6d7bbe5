"""Painting the subject itself: the class's shape in the identity's look, with finish and outfit."""

from collections.abc import Callable
from dataclasses import replace

from delora_sd.miniature.world.paint.canvas import Pen
from delora_sd.miniature.world.paint.palette import WHITE, darker, lighter
from delora_sd.miniature.world.things.look import Look, look_of
from delora_sd.miniature.world.things.outfits import OUTFITS
from delora_sd.miniature.world.things.scene import Scene
from delora_sd.miniature.world.things.shapes_animals import draw_cat, draw_dog, draw_stuffed_animal, figure_of
from delora_sd.miniature.world.things.shapes_home import (
    draw_bowl,
    draw_can,
    draw_candle,
    draw_clock,
    draw_teapot,
    draw_vase,
)
from delora_sd.miniature.world.things.shapes_toys import draw_cartoon, draw_toy
from delora_sd.miniature.world.things.shapes_wear import draw_backpack, draw_boot, draw_glasses, draw_sneaker

SHAPES: dict[str, Callable[[Pen, Look], None]] = {
    "backpack": draw_backpack,
    "stuffed animal": draw_stuffed_animal,
    "bowl": draw_bowl,
    "can": draw_can,
    "candle": draw_candle,
    "cat": draw_cat,
    "clock": draw_clock,
    "sneaker": draw_sneaker,
    "dog": draw_dog,
    "toy": draw_toy,
    "boot": draw_boot,
    "glasses": draw_glasses,
    "cartoon": draw_cartoon,
    "teapot": draw_teapot,
    "vase": draw_vase,
}
DROP = (120, 200, 255)


def paint_subject(scene: Scene, size_px: int) -> Pen:
    """A layer with the scene's subject on nothing."""
    pen = Pen(size_px, scene.pose)
    look = look_of(scene.identity, pen, size_px)
    if scene.finish == "cube shaped":
        _paint_cube(pen, look, scene, size_px)
        return pen
    SHAPES[scene.identity.class_word](pen, look)
    if scene.outfit:
        OUTFITS[scene.outfit][1](pen, figure_of(scene.identity.class_word, look))
    if scene.finish == "shiny":
        _paint_sparkles(pen)
    elif scene.finish == "wet":
        _paint_drops(pen)
    return pen


def _paint_cube(pen: Pen, look: Look, scene: Scene, size_px: int) -> None:
    """The subject as a toy block: its own skin on the cube, itself small on the front."""
    look.skin(pen, [(-0.86, -0.5), (0.54, -0.5), (0.54, 0.96), (-0.86, 0.96)])
    pen.polygon([(-0.86, -0.5), (-0.5, -0.86), (0.9, -0.86), (0.54, -0.5)], lighter(look.main, 0.35))
    pen.polygon([(0.54, -0.5), (0.9, -0.86), (0.9, 0.6), (0.54, 0.96)], darker(look.main, 0.3))
    pen.box(-0.72, -0.36, 0.4, 0.82, lighter(look.main, 0.75), corner=0.1)
    ((x, y),) = pen.to_pixels([(-0.16, 0.24)])
    face = replace(scene.pose, x=x / pen.side, y=y / pen.side, half=scene.pose.half * 0.5)
    inner = Pen(size_px, face)
    SHAPES[scene.identity.class_word](inner, look_of(scene.identity, inner, size_px))
    pen.layer.alpha_composite(inner.layer)


def _paint_sparkles(pen: Pen) -> None:
    """Four-pointed stars of light."""
    for x, y, size in ((-0.42, -0.36, 0.34), (0.42, 0.14, 0.26), (-0.2, 0.56, 0.24), (0.6, -0.7, 0.24)):
        waist = size * 0.22
        points = [(x, y - size), (x + waist, y - waist), (x + size, y), (x + waist, y + waist)]
        points += [(x, y + size), (x - waist, y + waist), (x - size, y), (x - waist, y - waist)]
        pen.polygon(points, WHITE)


def _paint_drops(pen: Pen) -> None:
    """Large drops of water and a puddle's edge."""
    for x, y in ((-0.4, -0.42), (0.36, -0.16), (-0.28, 0.3), (0.3, 0.52), (0.66, -0.74), (-0.74, -0.1)):
        pen.blob([(x, y - 0.22), (x + 0.12, y + 0.02), (x, y + 0.14), (x - 0.12, y + 0.02)], DROP)
        pen.disc(x - 0.03, y + 0.02, 0.04, WHITE)
    pen.ellipse(0, 0.98, 0.8, 0.09, DROP)
