"""The overlay page: every photo with what its mask leaves out dimmed, so that a wrong mask is seen at a glance."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from delora_eval.pages.render import render_page
from delora_eval.pages.thumbnails import Thumbnail, to_thumbnail
from delora_sd.data.photos import open_alpha, open_photo

LONGEST_PX = 480
_DIMMED = 0.25
_TINT = np.array([200.0, 30.0, 60.0])


def render_overlays(title: str, shown: Sequence[tuple[Path, Path | None, str]]) -> str:
    """Returns the page; each of `shown` is (photo, its mask or none, what is said under it)."""
    cards = [{"thumbnail": _overlay(photo, mask), "said": said} for photo, mask, said in shown]
    return render_page("masks.html.j2", title=title, cards=cards)


def _overlay(photo: Path, mask: Path | None) -> Thumbnail:
    image = open_photo(photo)
    if max(image.size) > LONGEST_PX:
        image.thumbnail((LONGEST_PX, LONGEST_PX), Image.Resampling.LANCZOS)
    pixels = np.asarray(image, dtype=np.float64)
    if mask is not None:
        grey = (open_alpha(photo) if mask == photo else open_photo(mask)).convert("L").resize(image.size)
        kept = np.asarray(grey, dtype=np.float64)[..., None] / 255
        pixels = kept * pixels + (1 - kept) * (_DIMMED * pixels + (1 - _DIMMED) * _TINT)
    return to_thumbnail(Image.fromarray(pixels.round().astype(np.uint8)), LONGEST_PX)
