"""Aspect-ratio buckets: photos keep their shape, in a few shapes of nearly equal area, so that some can share a batch.

The shape of a photo is known from its header. No torch here.
"""

import math
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from delora_sd.data.photos import Square, load_square, open_photo, upright_size, warn_if_small

WIDEST = 2.0
"""Largest ratio of the sides; a longer photo loses its ends."""

LEAST_AREA = 0.9
"""Of the square's."""

Shape = tuple[int, int]
"""(height, width) in pixels."""


def bucket_shapes(size_px: int, step_px: int) -> list[Shape]:
    """Returns every shape of whole steps, at most `size_px` squared in area and as near to it as steps allow.

    Args:
        step_px: What both sides are multiples of: 64 for SDXL at 1024 px (Podell et al. 2023, App. I).
    """
    shapes = {(size_px, size_px)}
    for height in range(step_px, int(size_px * math.sqrt(WIDEST)) + 1, step_px):
        width = min(size_px**2 // height, int(WIDEST * height)) // step_px * step_px
        if height <= WIDEST * width and height * width >= LEAST_AREA * size_px**2:
            shapes |= {(height, width), (width, height)}
    return sorted(shapes)


def shape_of_photo(file: Path, shapes: Sequence[Shape]) -> Shape:
    """Returns the shape whose sides have the ratio nearest to the photo's; the larger of two equals."""
    height, width = upright_size(file)
    return min(shapes, key=lambda shape: (abs(math.log(shape[0] * width / (shape[1] * height))), -shape[0] * shape[1]))


def photos_by_shape(files: Sequence[Path], shapes: Sequence[Shape]) -> dict[Shape, tuple[int, ...]]:
    """Returns {shape: positions of its photos}, in the order of the shapes."""
    own = [shape_of_photo(file, shapes) for file in files]
    return {shape: tuple(i for i, each in enumerate(own) if each == shape) for shape in sorted(set(own))}


def load_shape(file: Path, shape: Shape) -> Square:
    """Returns what training sees of the photo, in this shape; warns when it is too small to be sharp.

    Raises:
        UserError: as `open_photo`.
    """
    if shape[0] == shape[1]:
        return load_square(file, shape[0])
    photo = open_photo(file)
    warn_if_small(file, photo, min(shape))
    left, top, scale = _crop(photo.height, photo.width, shape)
    return Square(to_shape(photo, shape), (photo.height, photo.width, round(top * scale), round(left * scale), *shape))


def to_shape(image: Image.Image, shape: Shape) -> Image.Image:
    """Returns the largest centred part of the image with the shape's ratio, at its size (Lanczos, antialiased)."""
    height, width = shape
    left, top, scale = _crop(image.height, image.width, shape)
    box = (left, top, left + width / scale, top + height / scale)
    return image.resize((width, height), Image.Resampling.LANCZOS, box=box)


def _crop(height: int, width: int, shape: Shape) -> tuple[float, float, float]:
    """Returns (left, top) of the centred crop in the photo's pixels, and how much the photo is scaled."""
    scale = max(shape[0] / height, shape[1] / width)
    return (width - shape[1] / scale) / 2, (height - shape[0] / scale) / 2, scale
