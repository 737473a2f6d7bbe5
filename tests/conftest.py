"""What every test may ask for: a tiny model, photos."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client: no test meets the network

from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from PIL import Image

# Every docstring claim about shapes is executed.
jaxtyping.install_import_hook(
    ["delora_sd.adapters.factors", "delora_sd.diffusion.objective", "delora_sd.training.objective"], "beartype.beartype"
)


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion (32 px), in diffusers layout."""
    from make_tiny_sd import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("tiny_sd"))


@pytest.fixture(scope="session")
def photo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four 48 x 40 px photos of different colours."""
    folder = tmp_path_factory.mktemp("photos")
    for i in range(4):
        pixels = np.random.default_rng(i).integers(0, 60, (40, 48, 3)) + np.array([40 * i, 180 - 40 * i, 90])
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{i:02d}.png")
    return folder


@pytest.fixture(scope="session")
def dreambooth_folder() -> Path:
    """The DreamBooth dataset: $DELORA_TEST_DREAMBOOTH, else ../shared/data/dreambooth beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "dreambooth"
    folder = Path(os.environ.get("DELORA_TEST_DREAMBOOTH") or beside)
    if not folder.is_dir():
        pytest.skip(f"NO DREAMBOOTH PHOTOS: set DELORA_TEST_DREAMBOOTH (looked in {folder})")
    return folder
