"""The whole of `generate`: sources, sets, resume, what is written and what is refused."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from image_files import hashes_in, images_in
from PIL import Image

from delora_sd.adapters.exchange.export.export import export_adapter
from delora_sd.cli.main import main
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_lines, write_bytes
from delora_sd.generation import images
from delora_sd.generation import model as model_module
from delora_sd.generation.generate import generate
from delora_sd.generation.model import ModelKeeper
from delora_sd.settings import DataConfig, ExportConfig, ModelConfig

CONTRACT = {
    "file", "prompt", "template", "prompt_index", "seed", "adapter", "step", "strength", "guidance",
    "num_inference_steps", "negative_prompt", "size_px", "base", "random_weights",
}  # fmt: skip


def _difference(a: Path, b: Path) -> int:
    return max(np.abs(x - y).max() for x, y in zip(images_in(a).values(), images_in(b).values(), strict=True))


def test_run_folder_gives_every_image_and_its_line(config, run: Path):
    folder = generate(config())
    lines = read_lines(folder / "images.jsonl")
    assert folder.parent == run / "images" and folder.name.startswith("final-")
    assert [line["file"] for line in lines[:3]] == [
        "00-a-photo-of-qwe-dog-s0.png",
        "01-a-red-qwe-dog-s0.png",
        "02-a-dog-s0.png",
    ]
    assert {line["file"] for line in lines} == set(images_in(folder)) and len(lines) == 6
    assert set(lines[0]) == CONTRACT
    assert all(image.shape == (32, 32, 3) for image in images_in(folder).values())


def test_default_prompts_are_the_subjects_benchmark(config):
    folder = generate(config(prompts=("dreambooth",), images_per_prompt=1, num_inference_steps=1))
    lines = read_lines(folder / "images.jsonl")
    assert len(lines) == 25 and lines[10]["prompt"] == "a qwe dog wearing a red hat"


def test_png_says_how_it_was_made_and_that_it_means_nothing(config):
    folder = generate(config(images_per_prompt=1, negative_prompt="unscharf, häßlich"))
    with Image.open(folder / "01-a-red-qwe-dog-s0.png") as image:
        info = image.info
    assert (info["prompt"], info["seed"]) == ("a red qwe dog", "0") and info["Software"].startswith("delora_sd ")
    assert json.loads(info["settings"])["negative_prompt"] == "unscharf, häßlich"
    assert info["Warning"].startswith("RANDOM WEIGHTS")


def test_again_draws_nothing(config, monkeypatch: pytest.MonkeyPatch):
    folder = generate(config())
    before = hashes_in(folder)
    monkeypatch.setattr(model_module, "load_model", None)  # would raise if a model were loaded
    assert generate(config()) == folder and hashes_in(folder) == before


def test_a_deleted_image_comes_back_and_the_others_are_left_alone(config):
    folder = generate(config(batch_size=2))
    before = hashes_in(folder)
    times = {file: file.stat().st_mtime_ns for file in folder.glob("*.png")}
    victim = folder / "01-a-red-qwe-dog-s1.png"
    victim.unlink()
    generate(config(batch_size=2))
    assert hashes_in(folder) == before
    assert {file for file, time in times.items() if file.stat().st_mtime_ns != time} == {victim}


def test_more_images_per_prompt_extend_the_set(config):
    folder = generate(config(images_per_prompt=1))
    first = images_in(folder)
    assert generate(config(images_per_prompt=3)) == folder
    assert len(images_in(folder)) == 9 and all((images_in(folder)[name] == first[name]).all() for name in first)


@pytest.mark.parametrize("num_writes", [0, 3, 5])
def test_a_full_disk_at_any_write_resumes_to_the_same_bytes(num_writes: int, config, monkeypatch, tmp_path: Path):
    undisturbed = generate(config(batch_size=4, output_dir=str(tmp_path / "undisturbed")))
    left = [num_writes]

    def fill_disk(path: Path, content: bytes) -> None:
        if left[0] == 0:
            raise UserError(f"cannot write {path}: No space left on device; nothing was changed")
        left[0] -= 1
        write_bytes(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(images, "write_bytes", fill_disk)
        patch.setattr(images, "WRITERS", 1)
        with pytest.raises(UserError, match="No space left"):
            generate(config(batch_size=4))
    folder = generate(config(batch_size=4))
    assert folder.name == undisturbed.name and hashes_in(folder) == hashes_in(undisturbed)


def test_strength_zero_is_the_base_model(config, tiny_sd: Path, run: Path, tmp_path: Path):
    zero = generate(config(strength=0.0))
    base = generate(
        config(
            run="base",
            output_dir=str(tmp_path / "base"),
            model=ModelConfig(base=str(tiny_sd)),
            data=DataConfig(class_word="dog"),
        )
    )
    assert zero.name == base.name and zero.name.startswith("base-")
    assert hashes_in(zero) == hashes_in(base)


def test_adapter_strength_and_step_change_theimages_in(config):
    final, half, step, base = (
        generate(config(**changes)) for changes in ({}, {"strength": 0.5}, {"step": 5}, {"strength": 0.0})
    )
    assert step.name.startswith("step-000005-")
    for a, b in ((final, half), (final, step), (final, base), (half, base)):
        assert _difference(a, b) > 5
    assert read_lines(step / "images.jsonl")[0]["step"] == 5
    assert read_lines(half / "images.jsonl")[0]["strength"] == 0.5


def test_peft_folder_takes_base_and_prompts_from_the_settings(config, run: Path, tmp_path: Path):
    """Its adapter_config.json names the base; the images are those of the run."""
    folder = generate(config(run=str(run / "adapter"), output_dir=str(tmp_path), data=DataConfig(class_word="dog")))
    assert folder.parent == tmp_path / "images"
    assert hashes_in(folder) == hashes_in(generate(config()))


def test_a_kept_model_draws_the_same_images_and_is_loaded_once(config, tmp_path: Path, monkeypatch):
    """Adapters are merged in and taken out again in between: nothing of one may stay for the next."""
    loads, load_model = [], model_module.load_model
    monkeypatch.setattr(model_module, "load_model", lambda *a, **k: loads.append(1) or load_model(*a, **k))
    keeper = ModelKeeper()
    sets = ({}, {"step": 5}, {"strength": 0.0}, {"prompts": ("a wet {class_word}",)})
    kept = [generate(config(output_dir=str(tmp_path / "kept"), **changes), keeper) for changes in sets]
    assert len(loads) == 1
    for folder, changes in zip(kept, sets, strict=True):
        assert hashes_in(folder) == hashes_in(generate(config(**changes)))


def test_extra_adapter_is_added(config, run: Path):
    other = str(run / "checkpoints" / "step-000005" / "adapter")
    with_extra = generate(config(extra_adapters={other: 1.0}))
    assert _difference(with_extra, generate(config())) > 5
    assert len(read_lines(with_extra / "images.jsonl")[0]["extra_adapters"]) == 1


@pytest.mark.parametrize("place", ["adapter", "export/rex.kohya.safetensors"])
def test_an_extra_adapter_of_another_base_is_said(place: str, config, run: Path, tmp_path: Path):
    other = shutil.copytree(run, tmp_path / "other")
    facts = json.loads((other / "manifest.json").read_text())
    (other / "manifest.json").write_text(json.dumps(facts | {"base": {"id": "elsewhere", "fingerprint": "0" * 64}}))
    shutil.rmtree(other / "adapter")
    export_adapter(ExportConfig(run=str(run), step=5, output=str(other / "export" / "rex.kohya.safetensors")))
    shutil.copytree(run / "checkpoints" / "step-000005" / "adapter", other / "adapter")
    with pytest.raises(UserWarning, match=r"extra_adapters: .* was trained on another base \(elsewhere\)"):
        generate(config(extra_adapters={str(other / place): 1.0}, images_per_prompt=1))


def test_a_plain_lora_file_is_drawn_on_a_named_base_and_scored(config, run: Path, tiny_sd: Path, tmp_path: Path):
    file = tmp_path / "theirs.safetensors"
    export_adapter(ExportConfig(run=str(run), output=str(file), precision="fp32"))
    names = {"model": ModelConfig(base=str(tiny_sd)), "data": DataConfig(class_word="dog")}
    theirs = generate(config(run=str(file), output_dir=str(tmp_path / "out"), **names))
    assert _difference(theirs, generate(config())) <= 1
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(3):
        Image.new("RGB", (64, 64), (80 * k, 100, 30)).save(photos / f"{k}.png")
    settings = ["encoders.random_weights=true", "protocol=miniature", f"output={tmp_path / 'scores.jsonl'}"]
    assert main(["score", f"reference={photos}", f"generated={theirs}", *settings]) == 0
    lines = read_lines(tmp_path / "scores.jsonl")
    assert {"dino", "clip_i", "clip_t"} <= {line["score"] for line in lines}
    assert {line["random_base"] for line in lines if line["score"] == "clip_t"} == {True}


def test_size_can_be_overridden_and_makes_another_set(config):
    small, large = (
        generate(config(images_per_prompt=1)),
        generate(config(images_per_prompt=1, model=ModelConfig(size_px=48))),
    )
    assert small != large and next(iter(images_in(large).values())).shape == (48, 48, 3)


def test_prompts_without_class_word_need_none(config, tiny_sd: Path, tmp_path: Path):
    plain = {"run": "base", "output_dir": str(tmp_path), "model": ModelConfig(base=str(tiny_sd))}
    assert len(images_in(generate(config(prompts=("a dog",), images_per_prompt=1, **plain)))) == 1
    with pytest.raises(UserError, match=r"needs data\.class_word"):
        generate(config(**plain))


BAD_SETTINGS = {
    "no_run": ({"run": ""}, "run is missing"),
    "missing_run": ({"run": "no/such"}, "run=no/such: no such folder or file"),
    "no_images": ({"images_per_prompt": 0}, "images_per_prompt=0: expected at least 1"),
    "no_steps": ({"num_inference_steps": 0}, "num_inference_steps=0: expected at least 1"),
    "batch": ({"batch_size": -1}, "batch_size=-1: expected at least 1"),
    "guidance": ({"guidance": 0.0}, "guidance=0.0: expected 1"),
    "guidance_nan": ({"guidance": float("nan")}, "guidance=nan"),
    "strength": ({"strength": 3.0}, "strength: 3.0"),
    "extra_strength": ({"extra_adapters": {"x": -1.0}}, "x: -1.0"),
    "seed": ({"seed": -1}, "seed=-1: expected 0 to"),
    "negative_prompt": ({"negative_prompt": "a\x07"}, "control character"),
    "unknown_step": ({"step": 7}, "step=7: .* has no such checkpoint; it has: 5"),
    "placeholder": ({"prompts": ("a {thing}",)}, "unknown placeholder"),
    "other_base": ({"model": ModelConfig(base="some/thing")}, "model.base=some/thing: .* was trained on"),
    "bare_without_output": ({"run": "base"}, "output_dir is missing"),
    "bare_with_step": ({"run": "base", "step": 5}, "only a run folder has steps"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_one_clear_line_and_write_nothing(name: str, config, run: Path):
    changes, message = BAD_SETTINGS[name]
    with pytest.raises(UserError, match=message) as caught:
        generate(config(**changes))
    assert "\n" not in str(caught.value) and not (run / "images").exists()


def test_unfinished_run_says_what_can_be_had(config, run: Path):
    (run / "adapter" / "adapter_config.json").unlink()
    with pytest.raises(UserError, match=r"training is not finished; .* step=N \(checkpoints: 5\)"):
        generate(config())
    assert generate(config(step=5)).name.startswith("step-000005-")


def test_folder_that_is_neither_run_nor_adapter(config, tmp_path: Path):
    with pytest.raises(UserError, match="neither a run folder"):
        generate(config(run=str(tmp_path)))


def test_run_folder_of_another_version_is_refused(config, run: Path):
    (run / "manifest.json").write_text('{"format": 99}')
    with pytest.raises(UserError, match="format 99"):
        generate(config())


def test_second_process_is_told_who_holds_the_set(config, monkeypatch: pytest.MonkeyPatch):
    settings = config()

    def meanwhile(*_, **__):
        monkeypatch.undo()
        generate(replace(settings))

    monkeypatch.setattr(model_module, "load_model", meanwhile)
    with pytest.raises(UserError, match="is in use by process"):
        generate(settings)
