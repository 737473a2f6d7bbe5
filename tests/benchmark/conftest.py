from pathlib import Path

import pytest
from PIL import Image

from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.config.load import from_dict

SUBJECTS = {"backpack": "backpack", "cat": "cat", "dog": "dog"}


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A dataset of three subjects with three tiny photos each."""
    folder = tmp_path / "dataset"
    for name in SUBJECTS:
        (folder / name).mkdir(parents=True)
        for index in range(3):
            Image.new("RGB", (64, 64), (80 * index, 120, 200)).save(folder / name / f"{index:02d}.jpg")
    rows = "".join(f"{name},{word}\n" for name, word in SUBJECTS.items())
    (folder / "classes.csv").write_text(f"subject_name,class\n{rows}")
    return folder


@pytest.fixture
def make_config(tmp_path: Path, dataset: Path):
    """Returns a benchmark of lora and delora on two subjects and two seeds, with changes."""

    def make(**changes) -> BenchmarkConfig:
        values = {
            "output_dir": str(tmp_path / "bench"),
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

    return make
