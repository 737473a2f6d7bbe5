"""Captions from the folder of the photos to what each sample is trained with, and what a run remembers of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from delora_sd.diffusion.text.clip import encode_prompts, load_text_encoder
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training import recipe
from delora_sd.training.before.door import resolve_places
from delora_sd.training.before.plan import make_plan
from delora_sd.training.before.preparation import prepare_data
from delora_sd.training.loop.batches import assemble_batch, draw_step


@pytest.fixture
def config(tiny_sd: Path, photo_folder: Path, tmp_path: Path) -> TrainConfig:
    photos = Path(shutil.copytree(photo_folder, tmp_path / "photos"))
    for number, photo in enumerate(sorted(photos.glob("*.png"))):
        photo.with_suffix(".txt").write_text(f"{{identifier}} dog with {number} hats")
    return TrainConfig(
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(base=str(tiny_sd), offline=True),
        data=DataConfig(photos=str(photos), class_word="dog", captions="beside", instance_template="{caption}"),
        training=TrainingConfig(num_steps=1, prior_weight=0.0, batch_size=4, export_check="tensors"),
    )


def test_every_sample_is_conditioned_on_the_caption_of_its_photo(config: TrainConfig):
    plan = make_plan([resolve_places(config)])
    prepare_data(plan)
    data = plan.members[0].data
    objective = plan.base.family.objective(plan.base, config.training, torch.device("cpu"))
    draw = draw_step(data, objective, seed=0, step=0, batch_size=4)
    batch = assemble_batch([data], [draw], torch.device("cpu"))
    tokenizer, encoder = load_text_encoder(plan.base, device=torch.device("cpu"), dtype=torch.float32)
    expected = encode_prompts([f"qwe dog with {number} hats" for number in draw.photos.tolist()], tokenizer, encoder)
    torch.testing.assert_close(batch.conditions["tokens"], expected)
    assert not torch.equal(expected[0], expected[1])


def test_a_run_goes_on_only_with_the_captions_it_was_begun_with(config: TrainConfig):
    recipe.train(config)
    longer = replace(config, training=replace(config.training, num_steps=2))
    file = Path(config.data.photos) / "02.txt"
    before = file.read_text()
    file.write_text(before + " and a scarf")
    for again in (config, longer):
        with pytest.raises(UserError, match=r"caption of 02\.png: .* and a scarf', but .* was begun with 'qwe dog"):
            recipe.train(again)
    file.write_text(before)
    assert recipe.train(longer).step == 2
