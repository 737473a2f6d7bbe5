"""What every test may ask for: a tiny model, photos."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports the hub's client: no test meets the network

import gc
import subprocess
from collections.abc import Callable
from pathlib import Path

import jaxtyping
import numpy as np
import pytest
from PIL import Image

from shaped_modules import shaped_modules

# Every claim about shapes and types in those modules is executed.
jaxtyping.install_import_hook(shaped_modules(), "beartype.beartype")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """No test leans on the one before it: DELORA_TEST_REVERSED=1 runs them last to first."""
    if os.environ.get("DELORA_TEST_REVERSED"):
        items.reverse()


def pytest_collection_finish() -> None:
    """What is loaded by now stays: the collector, which every training calls, need not look through it again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def tiny_sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Stable Diffusion (32 px), in diffusers layout."""
    from make_tiny_sd import write_tiny_sd

    return write_tiny_sd(tmp_path_factory.mktemp("tiny_sd"))


@pytest.fixture(scope="session")
def tiny_flux2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random FLUX.2 klein (32 px), in diffusers layout."""
    from make_tiny_flow import write_tiny_flow

    return write_tiny_flow(tmp_path_factory.mktemp("tiny_flux2"), "flux2")


@pytest.fixture(scope="session")
def tiny_zimage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Z-Image (32 px), in diffusers layout."""
    from make_tiny_flow import write_tiny_flow

    return write_tiny_flow(tmp_path_factory.mktemp("tiny_zimage"), "zimage")


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


@pytest.fixture(scope="session")
def finished_run(tiny_sd: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run trained, drawn from and scored through the command line; never written to."""
    from delora_sd.cli.main import main

    folder = tmp_path_factory.mktemp("finished") / "rex"
    train = ["train", f"model.base={tiny_sd}", f"data.photos={photo_folder}", "data.class_word=dog"]
    train += ["adapter.method=lora", "adapter.rank=2", "training.prior_weight=0", f"output_dir={folder}"]
    assert (
        main(
            [
                *train,
                "training.num_steps=2",
                "training.checkpoint_every=1",
                "training.log_every=1",
                "training.export_check=tensors",
            ]
        )
        == 0
    )
    draw = ["generate", str(folder), "prompts=a {class_word}", "num_inference_steps=1", "images_per_prompt=2"]
    assert main(draw) == 0
    assert main(["score", str(folder), "protocol=miniature"]) == 0
    return folder


@pytest.fixture
def world(tiny_sd: Path, photo_folder: Path, finished_run: Path, tmp_path: Path, monkeypatch):
    """What a case of bad input may use: its own folder, the tiny base, photos and the finished run."""
    from bad_inputs.case import World

    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))
    return World(folder=tmp_path, base=tiny_sd, photos=photo_folder, finished_run=finished_run)


@pytest.fixture
def open_in_browser(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess]:
    """Opens a page in headless Chromium, with further flags: the page as text on stdout, its console on stderr."""

    def open_page(page: Path, *flags: str) -> subprocess.CompletedProcess:
        command = ["chromium", "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        command += ["--disable-component-update", "--disable-sync", f"--user-data-dir={tmp_path / 'profile'}"]
        command += ["--enable-logging=stderr", "--v=0", "--virtual-time-budget=2000", "--dump-dom", *flags]
        return subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=180)

    return open_page
