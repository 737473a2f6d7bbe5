"""What training will see of each photo, and what is wrong with it: measured on the pixels, said in a sentence.

The limits were set on the 158 photos of the DreamBooth dataset: none of them is called blurred, all of them are after a
Gaussian of 4 px at 512 px, and the only near twins among them are frames of one cartoon.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image

from delora_sd.data.held_out import hold_out
from delora_sd.data.masks import find_mask, load_mask
from delora_sd.data.photos import open_photo, to_square
from delora_sd.data.subjects import Subject
from delora_sd.errors import UserError
from delora_sd.studio.photos.captions import read_caption
from delora_sd.studio.photos.subject import SubjectFacts, list_photos

LEAST_DETAIL = 100.0
"""Variance of the Laplacian in the sharper places of the square at 256 px; the dataset has at least 320."""
NEAR_TWIN = 0.9
"""Correlation of two photos' small grey versions."""
_SIDE, _SMALL_SIDE, _BLOCKS = 256, 24, 8
_SECOND_PART = 0.25
"""A second part of the mask, as large as this share of the first, may be a second subject."""
_CUT = 0.05
"""Share of the subject's mask that the square may cut off without a word."""
_LOST = 0.34
"""Share of the photo that the square may leave out without a word: a 3:2 photo loses 0.33."""


@dataclass(frozen=True, kw_only=True)
class PhotoView:
    """One photo as the page shows it."""

    name: str
    width: int
    height: int
    caption: str
    has_mask: bool
    is_held_out: bool
    problems: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _Measured:
    width: int
    height: int
    detail: float
    small: np.ndarray
    """Grey, centred, of length 1."""


def examine(photos: Path, facts: SubjectFacts, *, size_px: int, seed: int = 0) -> list[PhotoView]:
    """Returns every photo of the subject with its problems.

    Args:
        size_px: What training will resize to.
        seed: Of the training: it decides which photos are held out.
    """
    files = list_photos(photos)
    held_out, refusal = _held_out(files, facts, seed)
    measured = {file: _measure_or_say(file) for file in files}
    views = []
    for file in files:
        found = measured[file]
        problems = [found] if isinstance(found, str) else _problems(file, found, measured, size_px)
        caption, mask, more = _beside(file)
        views.append(
            PhotoView(
                name=file.name,
                width=0 if isinstance(found, str) else found.width,
                height=0 if isinstance(found, str) else found.height,
                caption=caption,
                has_mask=mask is not None,
                is_held_out=file.name in held_out,
                problems=tuple(problems + more + ([refusal] if refusal and file == files[-1] else [])),
            )
        )
    return views


def _held_out(files: Sequence[Path], facts: SubjectFacts, seed: int) -> tuple[set[str], str | None]:
    """Returns (names that training will hold out, why it cannot)."""
    if not files or not facts.hold_out:
        return set(), None
    name = files[0].parent.resolve().name
    subject = Subject(name=name, class_word=facts.class_word, is_live=facts.lives, photos=tuple(files))
    try:
        return {photo.name for photo in hold_out(subject, facts.hold_out, seed=seed).held_out}, None
    except UserError as error:
        return set(), str(error).replace(str(files[0].parent) + "/", "")


def _measure_or_say(file: Path) -> "_Measured | str":
    """Returns what is measured, or why the photo cannot be used."""
    try:
        return _measure(file, file.stat().st_mtime_ns)
    except UserError as error:
        return str(error).replace(str(file), file.name)


@lru_cache(maxsize=512)
def _measure(file: Path, _changed: int) -> _Measured:
    image = open_photo(file)
    side = min(_SIDE, *image.size)
    grey = np.asarray(to_square(image, side).convert("L"), dtype=np.float32)
    small = np.asarray(to_square(image, _SMALL_SIDE).convert("L"), dtype=np.float32).ravel()
    small = small - small.mean()
    length = float(np.linalg.norm(small))
    return _Measured(
        width=image.width, height=image.height, detail=_detail(grey), small=small / length if length else small
    )


def _detail(grey: np.ndarray) -> float:
    """Returns the variance of the Laplacian in the block at nine tenths: a sharp subject before a soft background."""
    edges = 4 * grey[1:-1, 1:-1] - grey[:-2, 1:-1] - grey[2:, 1:-1] - grey[1:-1, :-2] - grey[1:-1, 2:]
    rows = [block for row in np.array_split(edges, _BLOCKS) for block in np.array_split(row, _BLOCKS, axis=1)]
    return float(np.quantile([block.var() for block in rows if block.size], 0.9))


def _problems(file: Path, own: _Measured, all_measured: dict[Path, "_Measured | str"], size_px: int) -> list[str]:
    side, found = min(own.width, own.height), []
    if side < size_px:
        found.append(f"small: {side} px a side, training enlarges it to {size_px} px and learns the blur")
    if own.detail < LEAST_DETAIL:
        found.append("blurred: no place in it is sharp")
    lost = 1 - side / max(own.width, own.height)
    if lost > _LOST:
        found.append(f"the square leaves out {lost:.0%} of it; crop it so that the subject is in the middle")
    for other, theirs in all_measured.items():
        if other == file or isinstance(theirs, str):
            continue
        if float(own.small @ theirs.small) > NEAR_TWIN:
            found.append(f"nearly the same as {other.name}: it counts twice and teaches nothing more")
            break
    return found


def _beside(file: Path) -> tuple[str, Path | None, list[str]]:
    """Returns (caption, mask, what is wrong with them)."""
    problems, caption, mask = [], "", None
    try:
        caption = read_caption(file)
    except UserError as error:
        problems.append(str(error))
    try:
        mask = find_mask(file)
        if mask is not None:
            problems += _mask_problems(file, mask)
    except UserError as error:
        problems.append(str(error).replace(str(file.parent) + "/", ""))
    return caption, mask, problems


def _mask_problems(file: Path, mask: Path) -> list[str]:
    shares, cut = _look_at_mask(file, mask, mask.stat().st_mtime_ns)
    problems = []
    if len(shares) > 1 and shares[1] > _SECOND_PART * shares[0]:
        problems.append("two subjects? the mask has two parts apart from each other")
    if cut > _CUT:
        problems.append(f"the square cuts off {cut:.0%} of the subject; crop the photo around it")
    return problems


@lru_cache(maxsize=512)
def _look_at_mask(file: Path, mask: Path, _changed: int) -> tuple[tuple[int, ...], float]:
    """Returns (sizes of the mask's parts, largest first; share of it outside the square)."""
    values = load_mask(file, mask)
    height, width = values.shape
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    inside = values[top : top + side, left : left + side].sum()
    small = Image.fromarray((values * 255).astype(np.uint8)).resize((64, 64), Image.Resampling.BOX)
    return _part_sizes(np.asarray(small) > 127), float(1 - inside / max(values.sum(), 1e-9))


def _part_sizes(mask: np.ndarray) -> tuple[int, ...]:
    """Returns the sizes of the connected parts, largest first: labels spread to their neighbours until none changes."""
    labels = np.where(mask, np.arange(1, mask.size + 1).reshape(mask.shape), 0)
    while True:
        padded = np.pad(labels, 1)
        around = [
            padded[1 + y : 1 + y + mask.shape[0], 1 + x : 1 + x + mask.shape[1]] for y in (-1, 0, 1) for x in (-1, 0, 1)
        ]
        spread = np.where(mask, np.max(around, axis=0), 0)
        if (spread == labels).all():
            break
        labels = spread
    sizes = np.unique(labels[labels > 0], return_counts=True)[1]
    return tuple(sorted(map(int, sizes), reverse=True))
