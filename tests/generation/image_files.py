"""What lies in an image set's folder, for comparing."""

import hashlib
from pathlib import Path

import numpy as np
from PIL import Image


def images_in(folder: Path) -> dict[str, np.ndarray]:
    """Returns {file name: (height, width, 3) pixels}, by name."""
    return {file.name: np.asarray(Image.open(file).copy(), dtype=np.int16) for file in sorted(folder.glob("*.png"))}


def hashes_in(folder: Path) -> dict[str, str]:
    """Returns {file name: SHA-256} of every file but the hidden ones."""
    files = sorted(file for file in folder.iterdir() if not file.name.startswith("."))
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}
