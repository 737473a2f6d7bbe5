"""Masks from the folder of photos to the weights of the loss; what is wrong with them is said before models load."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from delora_sd.errors import UserError
from delora_sd.settings import DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training import recipe
from delora_sd.training.before.door import resolve_places
from delora_sd.training.before.plan import make_plan
from delora_sd.training.before.preparation import prepare_data


@pytest.fixture
def config(tiny_sd: Path, photo_folder: Path, tmp_path: Path) -> TrainConfig:
    """Of four photos of 48 x 40 px with masks: the left 24 columns are the subject."""
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    (photos / "masks").mkdir()
    for photo in photos.glob("*.png"):
        write_mask(photos / "masks" / photo.name, left=24)
    return TrainConfig(
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(base=str(tiny_sd), offline=True),
        data=DataConfig(photos=str(photos), class_word="dog"),
        training=TrainingConfig(num_steps=1, prior_weight=0.0, outside_weight=0.25, export_check="tensors"),
    )


def write_mask(file: Path, *, left: int, size: tuple[int, int] = (48, 40)) -> None:
    mask = np.zeros((size[1], size[0]), dtype=np.uint8)
    mask[:, :left] = 255
    Image.fromarray(mask).save(file)


def test_each_place_of_the_latent_weighs_what_its_mask_says(config: TrainConfig):
    plan = make_plan([resolve_places(config)])
    prepare_data(plan)
    (member,) = plan.members
    weights, side = member.data.photo_weights, plan.base.latent_side
    assert weights.shape == (4, 1, *member.data.photos.mean.shape[2:])
    columns = 4 + 40 / side * np.arange(side + 1)  # the square of 40 px begins 4 px from the left
    inside = np.clip(24 - columns[:-1], 0, 40 / side) / (40 / side)
    expected = torch.tensor(inside + 0.25 * (1 - inside), dtype=torch.float32).expand(4, 1, side, side)
    torch.testing.assert_close(weights, expected)


def test_without_the_setting_masks_weigh_nothing_and_need_not_be_there(config: TrainConfig):
    plan = make_plan([resolve_places(replace(config, training=replace(config.training, outside_weight=1.0)))])
    prepare_data(plan)
    assert plan.members[0].data.photo_weights is None


def masks_of(config: TrainConfig) -> Path:
    return Path(config.data.photos) / "masks"


def test_what_is_wrong_with_a_mask_is_said_before_training(config: TrainConfig):
    masks = masks_of(config)
    write_mask(masks / "01.png", left=24, size=(40, 48))
    with pytest.raises(UserError, match=r"40 x 48 px, but 01\.png is 48 x 40 px"):
        recipe.train(config)
    (masks / "01.png").rename(masks / "10.png")
    with pytest.raises(UserError, match=r"10\.png: no photo of that name"):
        recipe.train(config)
    shutil.rmtree(masks)
    with pytest.raises(UserError, match=r"no mask for 4 of 4 photos .*delora-sd masks"):
        recipe.train(config)
    with pytest.raises(UserError, match=r"training\.outside_weight: -1"):
        recipe.train(replace(config, training=replace(config.training, outside_weight=-1.0)))
    assert not Path(config.output_dir).exists()


def test_a_run_goes_on_only_with_the_masks_it_was_begun_with(config: TrainConfig):
    recipe.train(config)
    longer = replace(config, training=replace(config.training, num_steps=2))
    write_mask(masks_of(config) / "02.png", left=30)
    for again in (config, longer):
        with pytest.raises(UserError, match=r"02\.png: not the mask of 02\.png that .*run was begun with"):
            recipe.train(again)
    write_mask(masks_of(config) / "02.png", left=24)
    assert recipe.train(longer).step == 2
