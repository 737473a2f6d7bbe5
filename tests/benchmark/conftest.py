"""A dataset of three subjects and a small grid on it."""

from pathlib import Path

import pytest
from PIL import Image

from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.pages import drawing
from delora_sd.config.load import from_dict

SUBJECTS = {"backpack": "backpack", "cat": "cat", "dog": "dog"}


@pytest.fixture(scope="session", autouse=True)
def coarse_drawings():
    """Figures with a tenth of the dots: what they show is looked at, not how fine."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "PNG_DPI", 20)
        yield


def write_dataset(folder: Path) -> Path:
    """A dataset of three subjects with three tiny photos each."""
    for name in SUBJECTS:
        (folder / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (64, 64), (80 * index, 120, 200)).save(folder / name / f"{index:02d}.jpg")
    rows = "".join(f"{name},{word}\n" for name, word in SUBJECTS.items())
    (folder / "classes.csv").write_text(f"subject_name,class\n{rows}")
    return folder


def small_grid(output_dir: Path, dataset: Path, /, **changes) -> BenchmarkConfig:
    """A benchmark of lora and delora on two subjects and two seeds, with changes."""
    values = {
        "output_dir": str(output_dir),
        "train": {
            "model": {"base": "miniature"},
            "data": {"dataset": str(dataset)},
            "training": {"num_steps": 40, "checkpoint_every": 20},
        },
        "methods": {"lora": {}, "delora": {}},
        "subjects": ["dog", "cat"],
        "seeds": [0, 1],
        "pack": "4",
    }
    return from_dict(BenchmarkConfig, values | changes, source="test")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    return write_dataset(tmp_path / "dataset")


@pytest.fixture
def make_config(tmp_path: Path, dataset: Path):
    """Returns a function: changes -> the small grid with them."""
    return lambda **changes: small_grid(tmp_path / "bench", dataset, **changes)
