"""An image and its parts as an encoder sees them: sliding windows of three sizes, each resized like a whole image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from delora_eval.scoring.judges.embedding import Judge, hash_files, use_encoder
from delora_eval.scoring.judges.networks.encoders import see_images
from delora_eval.scoring.judges.networks.preprocessing import prepare
from delora_eval.scoring.judges.protocols import View
from delora_sd.data.photos import open_photo

SIDES = (1.0, 3 / 4, 1 / 2, 1 / 3)
"""Window sides as shares of the image's shorter side; 1: the whole image."""

OVERLAP = 1 / 2
"""Two neighbouring windows share at least this much of their side."""


def embed_windows(judge: Judge, files: Sequence[Path], view: View) -> list[Float[Tensor, "N _ D"]]:
    """Returns one tensor of unit vectors per size in SIDES; every file is decoded once, and seen once per judge."""
    for file, key in zip(files, hash_files(judge, files), strict=True):
        if (_key(key, SIDES[-1]), view) not in judge.vectors:
            _see_file(judge, file, key, view)
    return [torch.stack([judge.vectors[_key(key, side), view] for key in hash_files(judge, files)]) for side in SIDES]


def window_boxes(side: float) -> list[tuple[float, float]]:
    """Returns (left, top) of every window of a size, as shares of a square's side; the last ones end at its edge."""
    count = 1 + int(np.ceil((1 - side) / (side * (1 - OVERLAP)) - 1e-9))
    places = np.linspace(0, 1 - side, count)
    return [(float(left), float(top)) for top in places for left in places]


def _see_file(judge: Judge, file: Path, key: str, view: View) -> None:
    """Puts the windows' vectors, (W, D) per size, beside those of whole images."""
    encoder = use_encoder(judge, view.encoder)
    preprocessing = view.preprocessing or encoder.preprocessing
    image = open_photo(file)
    windows = [_cut(image, side, *place) for side in SIDES for place in window_boxes(side)]
    prepared = torch.from_numpy(np.stack([prepare(window, preprocessing) for window in windows]))
    vectors = torch.cat([see_images(encoder, part) for part in prepared.split(judge.config.batch_size)])
    counts = [len(window_boxes(side)) for side in SIDES]
    for side, own in zip(SIDES, vectors.split(counts), strict=True):
        judge.vectors[_key(key, side), view] = own


def _cut(image: Image.Image, side: float, left: float, top: float) -> Image.Image:
    """One window; on an image that is not square the windows spread over the longer side too."""
    if side == 1:
        return image
    length = max(1, round(min(image.size) * side))
    x = round(left / (1 - side) * (image.width - length))
    y = round(top / (1 - side) * (image.height - length))
    return image.crop((x, y, x + length, y + length))


def _key(file_hash: str, side: float) -> str:
    return f"{file_hash}/{side:.4f}"
