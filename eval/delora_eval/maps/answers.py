"""What segmenters of every kind answer with: a label for every pixel at an asked size, of the classes of the maps."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from delora_sd.errors import UserError
from delora_sd.maps.palette import Palette

Size = tuple[int, int]
"""(height, width)"""


def largest(logits: torch.Tensor, size: Size) -> np.ndarray:
    """Returns the class (from 1) with the largest logit at every pixel of a size; logits (classes, height, width)."""
    resized = F.interpolate(logits[None], size=size, mode="bilinear", align_corners=False)[0]
    return (resized.argmax(0) + 1).to(torch.uint8).cpu().numpy()


def resize_labels(labels: np.ndarray, size: Size) -> np.ndarray:
    """Returns the nearest label at each pixel of another size."""
    return np.asarray(Image.fromarray(labels).resize((size[1], size[0]), Image.Resampling.NEAREST))


def check_classes(name: str, found: int, palette: Palette) -> None:
    """Raises UserError for a segmenter of another number of classes than the maps have."""
    if found != palette.num_labels:
        raise UserError(
            f"judge.segmenter={name}: knows {found} classes, the maps have {palette.num_labels}; use another"
        )
