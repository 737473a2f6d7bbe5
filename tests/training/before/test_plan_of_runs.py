"""What is read before the loop is read once, and what is wrong with it is said before anything is fetched or loaded."""

from dataclasses import replace
from pathlib import Path

import pytest

from delora_sd.data import photos
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.before import plan as plan_module
from delora_sd.training.before.plan import make_plan
from delora_sd.training.before.preparation import prepare_data


@pytest.fixture
def config(tiny_sd: Path, photo_folder: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(base=str(tiny_sd), offline=True),
        data=DataConfig(photos=str(photo_folder), class_word="dog"),
        training=TrainingConfig(num_steps=1, prior_weight=0.0),
    )


def test_each_photo_is_decoded_once_for_the_whole_pack(config: TrainConfig, tmp_path: Path, monkeypatch):
    """Of two runs that hold out different photos: what one holds out, the other trains on."""
    decoded, decode = [], photos._to_rgb
    monkeypatch.setattr(photos, "_to_rgb", lambda image: decoded.append(image) or decode(image))
    data = replace(config.data, hold_out=1)
    pack = [replace(config, data=data, seed=seed, output_dir=str(tmp_path / str(seed))) for seed in (0, 1, 2)]
    plan = make_plan(pack)
    assert len({member.subject.held_out for member in plan.members}) > 1 and len(plan.photos) == 4
    prepare_data(plan)
    assert len(decoded) == 4 and plan.photos == {}
    for member in plan.members:
        assert len(member.data.photos.mean) == 3


def test_a_photo_that_only_is_held_out_is_decoded_too(config: TrainConfig, photo_folder: Path, monkeypatch):
    seen, open_photo = [], plan_module.open_photo
    monkeypatch.setattr(plan_module, "open_photo", lambda photo: seen.append(photo) or open_photo(photo))
    plan = make_plan([replace(config, data=replace(config.data, hold_out=1))])
    assert tuple(seen) == plan.members[0].subject.held_out and len(plan.photos) == 3


def test_a_file_that_is_no_photo_is_refused_before_the_base_is_looked_for(config: TrainConfig, tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module, "find_base", None)  # would raise if it were called
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "1.jpg").write_text("dear album")
    with pytest.raises(UserError, match=r"1\.jpg: not a readable photo \(it is a text file\)"):
        make_plan([replace(config, data=replace(config.data, photos=str(tmp_path / "photos")))])
