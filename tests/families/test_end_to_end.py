"""Every family of bases from photos to files that other tools load, on a tiny model of its real classes."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from delora_sd.adapters.exchange.merge.updates import load_updates
from delora_sd.cli.main import main
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import TrainConfig
from delora_sd.training.recipe import train, train_pack


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> RunFolder:
    """The test's own copy of the trained run."""
    return RunFolder(Path(shutil.copytree(trained, tmp_path / "rex")))


@pytest.fixture(scope="module")
def base(settings: TrainConfig) -> Base:
    return find_base(settings.model)


@pytest.fixture(scope="module")
def updates(base: Base, trained: Path) -> dict[str, torch.Tensor]:
    """{weight of the denoiser: W' - W} of the trained adapter."""
    denoiser = load_denoiser(base, device="cpu", dtype=torch.float32)
    weights = dict(denoiser.named_parameters())
    found = load_updates(trained / "adapter", denoiser)
    return {name: update(weights[name].detach()) for name, update in found.items()}


def tensors(run: Path) -> dict[str, torch.Tensor]:
    return load_file(run / "adapter" / "adapter_model.safetensors")


def test_every_default_layer_is_trained_and_learns_something(base: Base, updates: dict[str, torch.Tensor]):
    denoiser = load_denoiser(base, device="meta", dtype=torch.float32)
    expected = {
        f"{name}.weight"
        for name, module in denoiser.named_modules()
        if isinstance(module, nn.Linear) and name.endswith(tuple(f".{end}" for end in base.family.default_layers))
    }
    assert expected and set(updates) == expected
    assert all(update.abs().max() > 0 for update in updates.values())


def test_a_run_that_was_stopped_ends_in_the_same_bits(settings: TrainConfig, trained: Path, tmp_path: Path):
    short = replace(settings.training, num_steps=1)
    train(replace(settings, output_dir=str(tmp_path / "run"), training=short))
    train(replace(settings, output_dir=str(tmp_path / "run")))
    whole, resumed = tensors(trained), tensors(tmp_path / "run")
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_pack_of_three_is_three_single_runs(settings: TrainConfig, trained: Path, tmp_path: Path):
    def runs(prefix: str) -> list[TrainConfig]:
        steady = replace(
            settings.optimizer, eps=1.0, lr=0.5
        )  # a step is as large as its gradient: rounding stays small
        return [
            replace(settings, output_dir=str(tmp_path / f"{prefix}{i}"), seed=i, optimizer=steady) for i in range(3)
        ]

    assert all(result.failure is None for result in train_pack(runs("packed")))
    for config in runs("single"):
        train(config)
    for i in range(3):
        packed, single = tensors(tmp_path / f"packed{i}"), tensors(tmp_path / f"single{i}")
        for name, value in single.items():
            torch.testing.assert_close(packed[name], value, rtol=1e-4, atol=1e-6)


def test_images_are_drawn_scored_and_marked_random(run: RunFolder):
    draw = ["generate", str(run.path), "prompts=a {identifier} {class_word}", "num_inference_steps=2"]
    assert main([*draw, "images_per_prompt=1"]) == 0
    assert main(["score", str(run.path), "protocol=miniature"]) == 0
    scores = [json.loads(line) for line in run.scores.read_text().splitlines()]
    of_images = [score for score in scores if score["base"] is not None]
    assert of_images and all(score["random_base"] for score in of_images)


def test_exports_drew_the_same_image_when_they_were_written(run: RunFolder):
    differences = run.read_manifest()["export_difference"]
    assert len(differences) == 3, "kohya, diffusers, and kohya by ComfyUI's arithmetic"
    assert all(value is not None and value < 2 for value in differences.values())


@pytest.mark.parametrize("layout", ["kohya", "diffusers"])
def test_exported_file_is_the_adapter_tensor_by_tensor_in_diffusers(
    layout: str, run: RunFolder, base: Base, updates: dict[str, torch.Tensor]
):
    file = run.path / f"{layout}.safetensors"
    export = ["export", str(run.path), f"layout={layout}", "precision=fp32", f"output={file}"]
    assert main(export) == 0
    pipeline = getattr(diffusers, base.family.pipeline).from_pretrained(str(base.folder), use_safetensors=True)
    pipeline.load_lora_weights(str(run.path), weight_name=file.name, local_files_only=True, use_safetensors=True)
    loaded = {
        f"{name}.weight": module.get_delta_weight(module.active_adapters[0])
        for name, module in getattr(pipeline, base.family.denoiser).named_modules()
        if hasattr(module, "get_delta_weight")
    }
    assert set(loaded) == set(updates)
    for name, update in updates.items():
        torch.testing.assert_close(loaded[name], update, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("layout", ["kohya", "diffusers", "peft"])
def test_exported_file_is_read_back_here(layout: str, run: RunFolder, base: Base, updates: dict[str, torch.Tensor]):
    file = run.path / f"again.{'peft' if layout == 'peft' else 'safetensors'}"
    assert main(["export", str(run.path), f"layout={layout}", "precision=fp32", f"output={file}"]) == 0
    denoiser = load_denoiser(base, device="cpu", dtype=torch.float32)
    weights = dict(denoiser.named_parameters())
    found = {name: update(weights[name].detach()) for name, update in load_updates(file, denoiser).items()}
    assert set(found) == set(updates)
    for name, update in updates.items():
        torch.testing.assert_close(found[name], update, rtol=1e-4, atol=1e-6)


def test_merged_model_is_base_plus_adapter_and_loads_as_a_pipeline(
    run: RunFolder, base: Base, updates: dict[str, torch.Tensor], tmp_path: Path
):
    assert main(["merge", str(run.path), str(tmp_path / "merged"), "precision=fp32"]) == 0
    pipeline = getattr(diffusers, base.family.pipeline).from_pretrained(str(tmp_path / "merged"), use_safetensors=True)
    merged = dict(getattr(pipeline, base.family.denoiser).named_parameters())
    before = dict(load_denoiser(base, device="cpu", dtype=torch.float32).named_parameters())
    for name, weight in before.items():
        expected = weight + updates[name].view_as(weight) if name in updates else weight
        torch.testing.assert_close(merged[name], expected, rtol=0, atol=1e-5)


def test_an_adapter_of_another_family_is_refused_with_the_shapes_that_differ(run: RunFolder, tiny_sd: Path, capsys):
    draw = ["generate", f"run={run.adapter}", f"model.base={tiny_sd}", f"output_dir={run.path / 'other'}"]
    assert main([*draw, "prompts=a dog", "data.class_word=dog"]) == 2
    said = capsys.readouterr().err
    assert "was made for another base: an adapter of" in said and "does not fit Stable Diffusion 1.x and 2.x" in said
