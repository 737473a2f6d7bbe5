"""Images as data URIs: a page with its images inside needs no other file. Beyond some hundreds they are links."""

import base64
import io
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from PIL import Image

from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError

SMALL_PX = 128
"""Images up to this size (the miniature's) are embedded without loss and shown with sharp pixels."""

NUM_READERS = 4


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """An image inside the page."""

    uri: str
    """Empty when the file is missing or damaged."""
    width: int
    height: int
    is_small: bool = False
    is_link: bool = False
    """True: the page shows the file, which must stay where it is."""


MISSING = Thumbnail(uri="", width=1, height=1)


def make_thumbnails(files: Sequence[Path], longest_px: int) -> list[Thumbnail]:
    """Returns one thumbnail per file, in order; a missing or damaged file gives an empty one."""
    with ThreadPoolExecutor(NUM_READERS) as readers:
        return list(readers.map(lambda file: make_thumbnail(file, longest_px), files))


def make_thumbnail(file: Path, longest_px: int) -> Thumbnail:
    try:
        image = open_photo(file)
    except UserError:
        return MISSING
    return to_thumbnail(image, longest_px)


def link_thumbnail(file: Path, beside: Path, *, like: Thumbnail) -> Thumbnail:
    """Returns a link to the file from a page in the folder `beside`, shown in the size of another image."""
    if not file.is_file():
        return MISSING
    uri = quote(Path(os.path.relpath(file, beside)).as_posix())
    return Thumbnail(uri=uri, width=like.width, height=like.height, is_small=like.is_small, is_link=True)


def to_thumbnail(image: Image.Image, longest_px: int) -> Thumbnail:
    """Returns an image that exists only in memory, made small enough."""
    is_small = max(image.size) <= SMALL_PX
    if not is_small:
        image.thumbnail((longest_px, longest_px), Image.Resampling.LANCZOS)
    return Thumbnail(uri=_to_uri(image, lossless=is_small), width=image.width, height=image.height, is_small=is_small)


def _to_uri(image: Image.Image, *, lossless: bool) -> str:
    buffer = io.BytesIO()
    image.save(buffer, format="WEBP", lossless=lossless, quality=84, method=4)
    return f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
