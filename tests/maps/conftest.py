"""A small dataset of maps, and a run trained on it: made once, never written to."""

from pathlib import Path

import pytest
from PIL import Image

from delora_sd.maps.miniature import write_miniature


@pytest.fixture(scope="session")
def map_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six training pairs and four test pairs of the miniature world, 64 px."""
    folder = tmp_path_factory.mktemp("maps")
    write_miniature(folder, {"train": 6, "val": 4})
    return folder


@pytest.fixture(scope="session")
def map_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def _own_cache(map_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DELORA_SD_CACHE", str(map_cache))


@pytest.fixture(scope="session")
def common(tiny_sd: Path, map_folder: Path) -> list[str]:
    """Settings of a training of seconds."""
    return [
        f"model.base={tiny_sd}",
        f"data.dataset={map_folder}",
        "data.search_maps=2",
        "control.encoder=scratch",
        "adapter.method=lora",
        "adapter.rank=2",
        "training.batch_size=2",
        "training.num_steps=4",
        "training.checkpoint_every=2",
        "training.log_every=1",
        "optimizer.lr=1e-2",
        "control.max_lr=1e-2",
    ]


@pytest.fixture(scope="session")
def map_run(common: list[str], map_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from delora_sd.cli.main import main

    folder = tmp_path_factory.mktemp("trained") / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELORA_SD_CACHE", str(map_cache))
        assert main(["train-maps", *common, f"output_dir={folder}"]) == 0
    return folder


def save(pixels, file: Path, mode: str | None = None) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file)
    return file
