"""Photos as training will see them, as small files for the page: upright, square, at the training's size."""

import io
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from delora_sd.data.masks import find_mask, load_mask
from delora_sd.data.photos import open_photo, to_square

SHOWN_PX = 384
"""Largest side that is sent: the page shows photos smaller."""
_TINT = (224, 108, 58)


def training_view(photo: Path, *, size_px: int, with_mask: bool) -> bytes:
    """Returns a PNG of the photo's pixels as training sees them, outside its mask tinted if asked for."""
    return _render(photo, photo.stat().st_mtime_ns, size_px, with_mask)


@lru_cache(maxsize=256)
def _render(photo: Path, _changed: int, size_px: int, with_mask: bool) -> bytes:
    square = to_square(open_photo(photo), min(size_px, SHOWN_PX))
    mask = find_mask(photo) if with_mask else None
    if mask is not None:
        square = _tint_outside(square, load_mask(photo, mask))
    buffer = io.BytesIO()
    square.save(buffer, "PNG")
    return buffer.getvalue()


def _tint_outside(square: Image.Image, mask: np.ndarray) -> Image.Image:
    inside = to_square(Image.fromarray((mask * 255).astype(np.uint8)), square.width)
    grey = square.convert("L").convert("RGB")
    outside = Image.blend(grey, Image.new("RGB", square.size, _TINT), 0.45)
    return Image.composite(square, outside, inside)
