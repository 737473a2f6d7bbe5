"""`data.buckets=true` on SDXL: one shape a batch, captions and class images with their photos, and what is refused."""

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from delora_sd.config.deciding import pack_group, setting_apart
from delora_sd.data.buckets import load_shape
from delora_sd.data.photos import stack_squares
from delora_sd.diffusion.cache import encode_photos
from delora_sd.diffusion.parts import load_vae
from delora_sd.errors import UserError
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.before.plan import make_plan
from delora_sd.training.before.preparation import prepare_data
from delora_sd.training.loop.batches import assemble_batch, draw_step
from delora_sd.training.recipe import train
from make_tiny_sdxl import write_tiny_sdxl

SIZES = [(40, 40), (30, 60), (60, 30), (32, 64), (41, 40)]
"""(height, width): two squares, two wide, one tall."""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_sdxl(tmp_path_factory.mktemp("sdxl"))


@pytest.fixture
def config(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainConfig:
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))
    photos = tmp_path / "photos"
    photos.mkdir()
    for number, (height, width) in enumerate(SIZES):
        pixels = np.random.default_rng(number).integers(0, 255, (height, width, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(photos / f"{number}.png")
        (photos / f"{number}.txt").write_text(f"{{identifier}} dog with {number} hats")
    return TrainConfig(
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(base=str(base), offline=True),
        data=DataConfig(
            photos=str(photos), class_word="dog", captions="beside", instance_template="{caption}", buckets=True
        ),
        adapter=AdapterConfig(rank=2, init="zero_up"),
        training=TrainingConfig(num_steps=3, num_class_images=3, checkpoint_every=1, log_every=1, batch_size=2),
    )


def test_every_batch_has_one_shape_and_latents_keep_their_captions_and_sizes(config: TrainConfig):
    plan = make_plan([config])
    prepare_data(plan)
    data = plan.members[0].data
    shapes = [tuple(int(side) for side in bucket.photos.sizes[0, 4:]) for bucket in data.buckets]
    assert sorted(shapes) == sorted({(24, 40), (32, 32), (40, 24)})
    vae = load_vae(plan.base, device="cpu", dtype=torch.float32)
    objective = plan.base.family.objective(plan.base, config.training, torch.device("cpu"))
    seen: Counter[int] = Counter()
    known = {}
    for step in range(2 * len(SIZES)):
        draw = draw_step(data, objective, seed=3, step=step, batch_size=2)
        batch = assemble_batch([data], [draw], torch.device("cpu"))
        height, width = shapes[draw.bucket]
        assert batch.latents.shape == (4, 4, height // 2, width // 2), "photos and class images of one shape"
        originals = [tuple(row[:2]) for row in batch.conditions["sizes"].tolist()]
        for size, tokens in zip(originals[:2], batch.conditions["tokens"][:2], strict=True):
            seen[SIZES.index(size)] += 1
            assert torch.equal(known.setdefault(size, tokens), tokens), "a photo keeps its caption"
        assert originals[2:] == [(height, width)] * 2
    assert len({tuple(tokens.flatten().tolist()) for tokens in known.values()}) == len(SIZES)
    assert seen == {number: 4 for number in range(len(SIZES))}, "every photo as often as every other"
    wide = next(bucket for bucket, shape in zip(data.buckets, shapes, strict=True) if shape == (24, 40))
    files = [file for file in plan.members[0].subject.photos if file.stem in ("1", "3")]
    expected = encode_photos(stack_squares([load_shape(file, (24, 40)) for file in files])[0], vae, plan.base.family)
    torch.testing.assert_close(wide.photos.mean, expected.mean)


def test_a_run_resumes_bit_equal_and_writes_each_photos_shape_down(config: TrainConfig, tmp_path: Path):
    train(replace(config, training=replace(config.training, num_steps=1)))
    train(config)
    whole = replace(config, output_dir=str(tmp_path / "whole"))
    train(whole)
    first, second = (load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    shapes = json.loads((tmp_path / "run" / "manifest.json").read_text())["shapes"]
    assert shapes == {"0.png": [32, 32], "1.png": [24, 40], "2.png": [40, 24], "3.png": [24, 40], "4.png": [32, 32]}


def test_runs_with_buckets_train_alone(config: TrainConfig, tmp_path: Path):
    other = replace(config, output_dir=str(tmp_path / "other"))
    assert setting_apart(config, other) == "data.buckets"
    assert pack_group(config) != pack_group(other)


def test_squares_only_where_the_family_knows_no_other(config: TrainConfig, tiny_sd: Path):
    with pytest.raises(UserError, match=r"data\.buckets=true: Stable Diffusion 1\.x and 2\.x was trained on squares"):
        make_plan([replace(config, model=ModelConfig(base=str(tiny_sd)))])


def test_masks_are_of_squares(config: TrainConfig):
    with pytest.raises(UserError, match=r"data\.buckets=true: masks"):
        train(replace(config, training=replace(config.training, outside_weight=0.5)))
