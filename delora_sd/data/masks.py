"""Masks of photos: where the subject is. A folder `masks` beside the photos, same stem, .png; or a photo's own alpha.

Reading only. Who makes them (`delora-sd masks`, a person, another tool) does not matter here.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float
from PIL import Image

from delora_sd.data.photo_files import is_of_the_system, is_photo
from delora_sd.data.photos import open_alpha, open_photo, upright_size
from delora_sd.errors import UserError, nearest_name

MASK_FOLDER = "masks"
"""Its place in the folder of the photos."""

_MAKE = "make them with `delora-sd masks {folder} class_word=...`, or draw them: white where the subject is"
_NAMES_SHOWN = 3


def find_masks(photos: Sequence[Path], *, folder: Path | None = None) -> tuple[Path, ...]:
    """Returns each photo's mask: its file in the folder of masks, or the photo itself when its alpha is the mask.

    `folder` replaces the photos' own `masks`; for several subjects it holds one folder per subject.

    Raises:
        UserError: a photo without a mask, or a mask that belongs to no photo.
    """
    sources = [find_mask(photo, folder=folder) for photo in photos]
    missing = [photo for photo, source in zip(photos, sources, strict=True) if source is None]
    if missing:
        shown = ", ".join(photo.name for photo in missing[:_NAMES_SHOWN])
        place = missing[0].parent
        raise UserError(
            f"no mask for {len(missing)} of {len(photos)} photos ({shown}{', ...' if len(missing) > 3 else ''}): "
            f"looked in {_masks_of(missing[0], folder)} and in the photos' alpha; {_MAKE.format(folder=place)}"
        )
    return tuple(source for source in sources if source is not None)


def find_mask(photo: Path, *, folder: Path | None = None) -> Path | None:
    """Returns the photo's mask as `find_masks` does; None without one.

    Raises:
        UserError: the folder of masks holds a file that belongs to no photo, or that belongs to two.
    """
    masks = _masks_of(photo, folder)
    if masks.is_dir():
        _check_names(masks, photo.parent)
        file = masks / f"{photo.stem}.png"
        if file.is_file():
            return file
    elif folder is not None:
        raise UserError(f"masks={folder}: no such folder; {_MAKE.format(folder=photo.parent)}")
    return photo if open_alpha(photo) is not None else None


def load_mask(photo: Path, mask: Path) -> Float[np.ndarray, "height width"]:
    """Returns how much of each of the photo's pixels is the subject, 0..1, upright, at the photo's own size.

    A file whose only values are 0 and 1 counts as black and white.

    Raises:
        UserError: the mask has another size than the photo, is empty, or is no grey image.
    """
    image = open_alpha(photo) if mask == photo else _open_grey(mask)
    levels = np.asarray(image)
    values = levels.astype(np.float32) / (1 if levels.max() == 1 else 255)
    height, width = upright_size(photo)
    if values.shape != (height, width):
        raise UserError(
            f"{mask}: {values.shape[1]} x {values.shape[0]} px, but {photo.name} is {width} x {height} px; "
            f"a mask has the size of its photo: {_MAKE.format(folder=photo.parent)}"
        )
    if values.max() < 0.5:
        raise UserError(
            f"{mask}: an empty mask, nothing is white; draw the subject white, or delete the mask and "
            f"{_MAKE.format(folder=photo.parent)}"
        )
    return values


def load_square_mask(photo: Path, mask: Path, side: int) -> Float[np.ndarray, "side side"]:
    """Returns how much of each cell of the centred square is the subject: the mask averaged by area over side x side.

    The square is the one training sees (`photos.to_square`). An all-white mask gives ones exactly.

    Raises:
        UserError: as `load_mask`, or nothing of the subject lies in the square.
    """
    values = load_mask(photo, mask).astype(np.float64)
    height, width = values.shape
    crop = min(values.shape)
    top, left = (height - crop) // 2, (width - crop) // 2
    square = values[top : top + crop, left : left + crop]
    if square.max() < 0.5:
        raise UserError(
            f"{mask}: the subject lies outside the centred square of {photo.name} that training sees; crop the photo "
            "and its mask, or leave the photo out"
        )
    shares = _shares(crop, side)
    return (shares @ square @ shares.T).astype(np.float32)


def _shares(num_pixels: int, num_cells: int) -> Float[np.ndarray, "cells pixels"]:
    """Returns which share of each cell each pixel fills, along one side."""
    edges = np.arange(num_cells + 1) * (num_pixels / num_cells)
    pixels = np.arange(num_pixels)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return overlap.clip(0) * (num_cells / num_pixels)


def _masks_of(photo: Path, folder: Path | None) -> Path:
    if folder is None:
        return photo.parent / MASK_FOLDER
    of_subject = folder / photo.parent.name
    return of_subject if of_subject.is_dir() else folder


def _check_names(masks: Path, photos: Path) -> None:
    """Every mask belongs to one photo: a misnamed one would silently leave its photo without."""
    stems = [path.stem for path in photos.iterdir() if is_photo(path)]
    for file in sorted(masks.iterdir()):
        if is_of_the_system(file) or not is_photo(file):
            continue
        if file.suffix != ".png":
            raise UserError(f"{file}: masks are .png, found {file.suffix}; save it as {file.stem}.png")
        if file.stem not in stems:
            raise UserError(f"{file}: no photo of that name in {photos}{nearest_name(file.stem, tuple(stems))}")
        if stems.count(file.stem) > 1:
            raise UserError(f"{file}: {stems.count(file.stem)} photos in {photos} are named {file.stem}; rename one")


def _open_grey(file: Path) -> Image.Image:
    if open_alpha(file) is not None:
        raise UserError(f"{file}: a mask with transparency can mean two things; save it black and white without alpha")
    image = np.asarray(open_photo(file))
    if (image.max(axis=2) != image.min(axis=2)).any():
        raise UserError(f"{file}: a coloured image, no mask; expected white where the subject is, black elsewhere")
    return Image.fromarray(image[..., 0])
