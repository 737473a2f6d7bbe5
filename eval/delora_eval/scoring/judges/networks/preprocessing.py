"""Decoded images to arrays for an encoder, by hand with PIL: a number must not depend on a hub's processor file.

Decoding is `delora_sd.data.photos.open_photo`, the same for photos and generated images.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from PIL import Image

from delora_sd.data.photo_files import is_photo, list_files

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OPENAI_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
UNIT = ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""Channel (mean, std) of images in 0..1; PROTOCOL 3.2. UNIT leaves them as they are: DreamSim's encoders do it."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image of any size becomes an encoder's input."""

    resize: Literal["short_side", "short_side_down", "squash"]
    """short_side: keep the aspect ratio, then crop the centre, an odd rest rounded as torchvision does;
    short_side_down: the rest rounded down, as transformers' processors do. squash: both sides at once."""
    resize_px: int
    crop_px: int
    resample: Literal["bilinear", "bicubic"]
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    def __str__(self) -> str:
        size = f"{self.resize_px} to {self.crop_px}" if self.resize_px != self.crop_px else f"{self.crop_px}"
        named = {IMAGENET[0]: "ImageNet", HALF[0]: "0.5", OPENAI_CLIP[0]: "CLIP", UNIT[0]: "no"}
        shape = "squashed" if self.resize == "squash" else "centre crop"
        return f"{size} px {shape}, {self.resample}, {named.get(self.mean, 'own')} statistics"


def list_images(folder: Path) -> list[Path]:
    """Returns the images in a folder, by name, 2.png before 10.png: never by the order of the file system."""
    return natural_order([path for path in list_files(folder) if is_photo(path) and path.is_file()])


def natural_order(paths: Sequence[Path]) -> list[Path]:
    """Returns the paths sorted by name, numbers in it by their value: the order in which people count."""
    return sorted(paths, key=lambda path: ([_letters_or_number(part) for part in _NUMBER.split(path.name)], path.name))


_NUMBER = re.compile(r"([0-9]+)")


def _letters_or_number(part: str) -> tuple[int, str]:
    return (int(part), "") if part.isascii() and part.isdigit() else (-1, part)


def prepare(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """Returns the encoder's input, float32, shape (3, crop_px, crop_px)."""
    resized = image.resize(_resized_size(image, preprocessing), Image.Resampling[preprocessing.resample.upper()])
    pixels = np.asarray(_centre_crop(resized, preprocessing), dtype=np.float32) / 255
    normalised = (pixels - np.float32(preprocessing.mean)) / np.float32(preprocessing.std)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def is_black(image: Image.Image) -> bool:
    """True when every pixel is 0: what diffusers' safety checker leaves of a flagged image."""
    return all(highest == 0 for _, highest in image.getextrema())


def _resized_size(image: Image.Image, preprocessing: Preprocessing) -> tuple[int, int]:
    target = preprocessing.resize_px
    if preprocessing.resize == "squash":
        return target, target
    width, height = image.size
    if width <= height:
        return target, int(target * height / width)
    return int(target * width / height), target


def _centre_crop(image: Image.Image, preprocessing: Preprocessing) -> Image.Image:
    side = preprocessing.crop_px
    if image.size == (side, side):
        return image
    rounded = math.floor if preprocessing.resize == "short_side_down" else round
    left, top = rounded((image.width - side) / 2), rounded((image.height - side) / 2)
    return image.crop((left, top, left + side, top + side))
