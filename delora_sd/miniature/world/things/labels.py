"""The classes of an exact label map: the parts of the places, then the class words; their colours in a map."""

import colorsys

from delora_sd.miniature.world.paint.palette import Colour
from delora_sd.miniature.world.paint.parts import PARTS
from delora_sd.miniature.world.things.identity import CLASS_WORDS

LABELS = (*PARTS, *CLASS_WORDS)
"""Label k of a map is LABELS[k - 1]; 0 is none of them."""

_GOLDEN_SHARE = 0.618034
"""Hues this far apart on the circle never come close to one another."""


def subject_label(class_word: str) -> int:
    """The label of a subject's pixels."""
    return len(PARTS) + CLASS_WORDS.index(class_word) + 1


def label_colours() -> tuple[Colour, ...]:
    """The colour of each label in a map, black for 0: places pale, subjects strong."""
    colours = [(0, 0, 0)]
    for index in range(len(LABELS)):
        is_subject = index >= len(PARTS)
        rgb = colorsys.hsv_to_rgb(index * _GOLDEN_SHARE % 1, 0.95 if is_subject else 0.45, 0.95 - 0.3 * (index % 2))
        colours.append(tuple(round(255 * part) for part in rgb))
    return tuple(colours)
