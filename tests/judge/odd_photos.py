"""Five photos that trip preprocessing: portrait, grey, with alpha, 16 bit, and 40 px small."""

from pathlib import Path

import numpy as np
from PIL import Image


def write_odd_photos(folder: Path) -> list[Path]:
    """Writes the five and returns their files, by name."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(7)
    colours = rng.integers(0, 256, (37, 29, 3), dtype=np.uint8)
    alpha = rng.integers(0, 256, (37, 29), dtype=np.uint8)
    photos = {
        "alpha": Image.fromarray(np.dstack([colours, alpha])).resize((290, 370)),
        "deep": Image.fromarray(rng.integers(0, 65536, (210, 330), dtype=np.uint16)),
        "grey": Image.fromarray(colours[..., 0]).resize((417, 280)),
        "portrait": Image.fromarray(colours).resize((301, 533), Image.Resampling.BICUBIC),
        "tiny": Image.fromarray(colours).resize((40, 40)),
    }
    for name, photo in photos.items():
        photo.save(folder / f"{name}.png")
    return sorted(folder.glob("*.png"))
