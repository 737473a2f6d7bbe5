"""After training, diffusers loads what was exported and draws what we draw; a file that does not is not kept quiet."""

import warnings
from dataclasses import replace
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from delora_sd.files.run_folder import RunFolder, read_json
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrainingConfig
from delora_sd.training import recipe

FP16_LEVELS = 0.5
"""Rounding to fp16 moves the tiny model's image by at most so much, mean in steps of 1/255; measured 0.00 to 0.02."""


@pytest.fixture
def config(tiny_sd: Path, photo_folder: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        output_dir=str(tmp_path / "rex"),
        model=ModelConfig(base=str(tiny_sd), offline=True),
        data=DataConfig(photos=str(photo_folder), class_word="dog"),
        adapter=AdapterConfig(rank=2, boundary=20.0),
        optimizer=OptimizerConfig(lr=0.1),  # far from the base within three steps
        training=TrainingConfig(num_steps=3, prior_weight=0.0, checkpoint_every=100),
    )


def train(config: TrainConfig) -> dict[str, float | None]:
    recipe.train(config)
    return read_json(RunFolder(Path(config.output_dir)).manifest)["export_difference"]


def train_and_listen(config: TrainConfig) -> tuple[dict[str, float | None], str]:
    """Returns the differences and what was warned of."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        differences = train(config)
    return differences, "\n".join(str(warning.message) for warning in caught)


def corrupt(monkeypatch: pytest.MonkeyPatch, damage) -> None:
    """Damages the kohya file right after it was written."""
    export = recipe.export_defaults

    def damaged(run: RunFolder) -> list[Path]:
        files = export(run)
        file = next(file for file in files if ".kohya." in file.name)
        damage(file)
        return files

    monkeypatch.setattr(recipe, "export_defaults", damaged)


@pytest.mark.parametrize("method", ["delora", "lora", "dora", "oft"])
def test_diffusers_draws_with_the_export_what_we_draw(config, method):
    adapter = AdapterConfig(method=method, rank=2, num_blocks=2)
    differences = train(replace(config, adapter=adapter, optimizer=OptimizerConfig()))
    assert sorted(differences) == ["rex.diffusers.safetensors", "rex.kohya.safetensors"]
    assert max(differences.values()) < FP16_LEVELS


def test_the_packs_exports_are_checked_one_by_one(config, tmp_path):
    configs = [replace(config, seed=seed, output_dir=str(tmp_path / f"run{seed}")) for seed in (0, 1)]
    recipe.train_pack(configs)
    for each in configs:
        differences = read_json(RunFolder(Path(each.output_dir)).manifest)["export_difference"]
        assert len(differences) == 2 and max(differences.values()) < FP16_LEVELS


def test_a_whole_unet_has_no_export_to_check(config):
    assert train(replace(config, adapter=AdapterConfig(method="full"), optimizer=OptimizerConfig())) == {}


@pytest.mark.filterwarnings("ignore")  # deprecations inside torchao
def test_a_quantised_base_is_not_compared_for_its_own_rounding_would_show(config):
    pytest.importorskip("torchao", reason="NO torchao: pip install delora_sd[quantize]")
    assert train(replace(config, model=replace(config.model, quantization="int8"))) == {}


def test_an_export_that_draws_something_else_is_named_loudly(config, monkeypatch):
    def turn_round(file: Path) -> None:
        tensors = load_file(file)
        save_file({name: -value if ".lora_up." in name else value for name, value in tensors.items()}, file)

    corrupt(monkeypatch, turn_round)
    differences, said = train_and_listen(config)
    assert "rex.kohya.safetensors DRAWS SOMETHING ELSE" in said and "rex.diffusers" not in said
    assert differences["rex.kohya.safetensors"] > 2 > FP16_LEVELS > differences["rex.diffusers.safetensors"]


def test_an_export_that_diffusers_cannot_load_does_not_undo_the_training(config, monkeypatch):
    corrupt(monkeypatch, lambda file: file.write_bytes(file.read_bytes()[:100]))
    differences, said = train_and_listen(config)
    assert "rex.kohya.safetensors: diffusers cannot load it" in said
    assert differences["rex.kohya.safetensors"] is None
    assert RunFolder(Path(config.output_dir)).is_finished()
