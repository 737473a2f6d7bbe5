"""MaSC's numbers from patch vectors and masks, and the patches themselves. It knows no files and no network."""

import math
import re

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor

PATCH_PX = 16
MAX_PATCHES = 1024
"""The paper's budget: 32 x 32 for a square image."""
FOREGROUND = 0.5
"""Share of a patch that the subject covers."""
_FINEST_SCALE = 1e-5


def patch_grid(height: int, width: int, *, max_patches: int = MAX_PATCHES) -> tuple[int, int]:
    """Returns (rows, columns): the largest grid of the image's shape within the budget, as SigLIP 2 NaFlex."""
    low, high = _FINEST_SCALE / 10, 100.0
    while high - low >= _FINEST_SCALE:
        middle = (low + high) / 2
        rows, columns = (_patches_along(middle * side) for side in (height, width))
        low, high = (middle, high) if rows * columns <= max_patches else (low, middle)
    return _patches_along(low * height), _patches_along(low * width)


def _patches_along(length_px: float) -> int:
    return max(1, math.ceil(length_px / PATCH_PX))


def to_patches(image: Image.Image, grid: tuple[int, int]) -> Float[Tensor, "patches values"]:
    """Returns the image resized to the grid, in -1..1, one row per patch: rows first, channels last.

    Torchvision's antialiased bilinear on bytes, as transformers' processor: PIL's differs by one grey level.
    """
    from torchvision.transforms.v2 import functional as vision

    pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)
    size = [side * PATCH_PX for side in grid]
    resized = vision.resize(pixels, size, interpolation=vision.InterpolationMode.BILINEAR, antialias=True)
    values = (resized.float() / 255 - 0.5) / 0.5
    rows, columns = grid
    return values.reshape(3, rows, PATCH_PX, columns, PATCH_PX).permute(1, 3, 2, 4, 0).reshape(rows * columns, -1)


def cover(mask: Float[np.ndarray, "height width"], grid: tuple[int, int]) -> Float[Tensor, " patches"]:
    """Returns how much of every patch the mask covers, 0..1, read at the patches' centres as MaSC's own code does."""
    values = torch.from_numpy(np.ascontiguousarray(mask))[None, None]
    return F.interpolate(values, size=grid, mode="bilinear", align_corners=False).clamp(0, 1).flatten()


def concept_preservation(foreground: Float[Tensor, "P D"], image: Float[Tensor, "Q D"]) -> float:
    """Returns the mean over the reference's foreground patches of the best cosine to any patch of the image.

    Vectors are unit vectors.
    """
    return (foreground @ image.T).max(dim=1).values.mean().item()


def without_subject(prompt: str, class_word: str) -> str:
    """Returns the prompt without the subject: `a dog in the snow` becomes `in the snow` (MaSC's regular expression)."""
    word = re.escape(class_word.strip())
    for pattern in (rf"\b(?:a|an|the)\s+{word}\b", rf"\b{word}\b"):
        if word and re.search(pattern, prompt, flags=re.IGNORECASE):
            prompt = re.sub(pattern, "", prompt, flags=re.IGNORECASE)
            break
    return " ".join(prompt.split())
