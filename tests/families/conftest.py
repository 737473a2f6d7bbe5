"""A tiny base of the family a test asks for, and a run trained on it; neither is ever written to."""

from pathlib import Path

import pytest
from tiny_bases import WRITERS

from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.recipe import train


@pytest.fixture(scope="session", params=sorted(WRITERS))
def tiny_base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return WRITERS[request.param](tmp_path_factory.mktemp(f"tiny_{request.param}"))


@pytest.fixture(scope="session")
def settings(tiny_base: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Three steps with class images, of a run that no test shares."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELORA_SD_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield TrainConfig(
            output_dir=str(tmp_path_factory.mktemp("families") / "rex"),
            model=ModelConfig(base=str(tiny_base), offline=True),
            data=DataConfig(photos=str(photo_folder), class_word="dog"),
            adapter=AdapterConfig(rank=2, init="zero_up"),
            training=TrainingConfig(num_steps=3, num_class_images=2, checkpoint_every=1, log_every=1, batch_size=2),
        )


@pytest.fixture(scope="session")
def trained(settings: TrainConfig) -> Path:
    return train(settings).run.path
