"""After training, exports are compared with what was trained, by images or by tensors; a wrong file is named."""

import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.torch import load_file, save_file

from delora_sd.files.run_folder import RunFolder, read_json
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrainingConfig
from delora_sd.training import recipe

WAYS = ["rex.diffusers.safetensors", "rex.kohya.safetensors", "rex.kohya.safetensors in ComfyUI"]

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


FP16_SHARE = 0.002
"""What rounding to fp16 misses of a change, at most; measured 0.0002 to 0.0007."""


def by_tensors(config: TrainConfig) -> TrainConfig:
    return replace(config, training=replace(config.training, export_check="tensors"))


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
    assert sorted(differences) == WAYS
    assert max(differences.values()) < FP16_LEVELS
    images = {file.stem: np.asarray(Image.open(file)) for file in RunFolder(Path(config.output_dir)).product.iterdir()}
    assert set(images) == {"preview", "diffusers", "comfyui"}
    kept = np.abs(images["comfyui"].astype(float) - images["preview"]).mean()
    assert kept == pytest.approx(differences["rex.kohya.safetensors in ComfyUI"], abs=1e-3)


@pytest.mark.parametrize("method", ["delora", "dora", "oft"])
def test_the_tensors_of_an_export_are_those_that_were_trained(config, method):
    """DoRA's kohya file and both of OFT's are the closest LoRA, which leaves something out and is no fault."""
    adapter = AdapterConfig(method=method, rank=2, num_blocks=2)
    differences = train(by_tensors(replace(config, adapter=adapter, optimizer=OptimizerConfig())))
    assert sorted(differences) == ["rex.diffusers.safetensors", "rex.kohya.safetensors"]
    assert max(differences.values()) < FP16_SHARE


def turned_round(tensors: dict) -> dict:
    return {name: -value if ".lora_up." in name else value for name, value in tensors.items()}


def halved(tensors: dict) -> dict:
    return {name: value / 2 if ".lora_up." in name else value for name, value in tensors.items()}


def without_a_layer(tensors: dict) -> dict:
    return {name: value for name, value in tensors.items() if "_attn1_to_q." not in name}


@pytest.mark.parametrize("damage", [turned_round, halved, without_a_layer])
def test_tensors_that_are_not_those_trained_are_named_loudly(config, monkeypatch, damage):
    corrupt(monkeypatch, lambda file: save_file(damage(load_file(file)), file))
    differences, said = train_and_listen(by_tensors(config))
    assert "rex.kohya.safetensors HOLDS SOMETHING ELSE" in said and "rex.diffusers" not in said
    assert differences["rex.kohya.safetensors"] > 0.05 > FP16_SHARE > differences["rex.diffusers.safetensors"]


def test_the_closest_lora_turned_round_is_named_too(config, monkeypatch):
    corrupt(monkeypatch, lambda file: save_file(turned_round(load_file(file)), file, {"delora.svd_rank": "8"}))
    _, said = train_and_listen(by_tensors(replace(config, adapter=AdapterConfig(method="dora", rank=2))))
    assert "rex.kohya.safetensors HOLDS SOMETHING ELSE" in said


def test_a_file_that_is_not_whole_is_named_and_the_training_kept(config, monkeypatch):
    corrupt(monkeypatch, lambda file: file.write_bytes(file.read_bytes()[:100]))
    differences, said = train_and_listen(by_tensors(config))
    assert "rex.kohya.safetensors is not a whole safetensors file" in said
    assert differences["rex.kohya.safetensors"] is None


def test_one_of_a_pack_draws_and_the_other_compares_tensors(config, tmp_path):
    first = replace(config, output_dir=str(tmp_path / "first"))
    second = replace(by_tensors(config), seed=1, output_dir=str(tmp_path / "second"))
    recipe.train_pack([first, second])
    manifests = [read_json(RunFolder(Path(each.output_dir)).manifest) for each in (first, second)]
    assert [facts["export_check"] for facts in manifests] == ["images", "tensors"]
    assert max(manifests[1]["export_difference"].values()) < FP16_SHARE


def test_the_packs_exports_are_checked_one_by_one(config, tmp_path):
    configs = [replace(config, seed=seed, output_dir=str(tmp_path / f"run{seed}")) for seed in (0, 1)]
    recipe.train_pack(configs)
    for each in configs:
        differences = read_json(RunFolder(Path(each.output_dir)).manifest)["export_difference"]
        assert len(differences) == 3 and max(differences.values()) < FP16_LEVELS


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
    assert "in ComfyUI than the trained adapter" in said and "in diffusers than the trained adapter" in said
    wrong = min(value for name, value in differences.items() if ".kohya." in name)
    assert wrong > 2 > FP16_LEVELS > differences["rex.diffusers.safetensors"]


def test_an_export_that_diffusers_cannot_load_does_not_undo_the_training(config, monkeypatch):
    corrupt(monkeypatch, lambda file: file.write_bytes(file.read_bytes()[:100]))
    differences, said = train_and_listen(config)
    assert "rex.kohya.safetensors: diffusers cannot load it" in said
    assert "rex.kohya.safetensors: ComfyUI cannot load it" in said
    assert differences["rex.kohya.safetensors"] is None
    assert RunFolder(Path(config.output_dir)).is_finished()
