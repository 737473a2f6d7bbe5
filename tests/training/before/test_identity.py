"""The same contents are the same run, whatever places are called; other contents are refused, nothing relabelled."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from delora_sd.cli.main import main
from delora_sd.config.load import load_config, to_yaml
from delora_sd.diffusion.bases import find_base
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import RunFolder, read_json, read_lines, write_json
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training import recipe
from delora_sd.training.before.door import resolve_places
from delora_sd.training.before.plan import recognise_base


@pytest.fixture(scope="module")
def trained(tiny_sd: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `base`, `photos` and a finished `run` of two steps, made there with relative paths."""
    world = tmp_path_factory.mktemp("world")
    shutil.copytree(tiny_sd, world / "base")
    shutil.copytree(photo_folder, world / "photos")
    before = os.getcwd()
    os.chdir(world)
    try:
        recipe.train(settings(TrainConfig(), "base", "photos", num_steps=2))
    finally:
        os.chdir(before)
    return world


def settings(config: TrainConfig, base: str, photos: str, *, num_steps: int) -> TrainConfig:
    return replace(
        config,
        output_dir="run",
        model=ModelConfig(base=base, offline=True),
        data=DataConfig(photos=photos, class_word="dog"),
        adapter=AdapterConfig(method="lora", rank=2),
        training=TrainingConfig(
            num_steps=num_steps, checkpoint_every=2, log_every=1, prior_weight=0.0, export_check="tensors"
        ),
    )


@pytest.fixture
def world(trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The test's own copy: everything has moved here with its contents."""
    folder = Path(shutil.copytree(trained, tmp_path / "world"))
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def again(world: Path) -> Callable[..., TrainConfig]:
    """The command that made the run, with the places where things are now."""

    def make(base: str = "base", photos: str = "photos", num_steps: int = 2) -> TrainConfig:
        return settings(TrainConfig(), base, photos, num_steps=num_steps)

    return make


def files_of(folder: Path) -> dict[Path, bytes]:
    return {file: file.read_bytes() for file in folder.rglob("*") if file.is_file() and file.name != ".lock"}


def test_paths_are_absolute_from_the_beginning(trained: Path):
    config = load_config(TrainConfig, [trained / "run" / "config.yaml"], [])
    assert (config.model.base, config.data.photos) == (str(trained / "base"), str(trained / "photos"))


def test_names_of_bundled_things_and_hub_ids_stay_names():
    names = DataConfig(dataset="miniature", subject="dog"), ModelConfig(base="miniature")
    config = TrainConfig(data=names[0], model=names[1], adapter=AdapterConfig(peft_config="x.json"))
    resolved = resolve_places(config)
    assert (resolved.data, resolved.model) == names and Path(resolved.adapter.peft_config).is_absolute()
    assert resolve_places(TrainConfig()).model == TrainConfig().model


def test_a_finished_run_that_moved_says_so_and_knows_the_new_places(world: Path, again, capsys, monkeypatch):
    monkeypatch.setattr(recipe, "_train_unfinished", pytest.fail)
    (world / "settings.yaml").write_text(to_yaml(again()))
    manifest = (world / "run" / "manifest.json").read_bytes()
    assert main(["train", "settings.yaml"]) == 0
    assert capsys.readouterr().out == "run is finished, all 2 steps; there is nothing to do\n"
    config = load_config(TrainConfig, [world / "run" / "config.yaml"], [])
    assert (config.model.base, config.data.photos) == (str(world / "base"), str(world / "photos"))
    assert (world / "run" / "manifest.json").read_bytes() == manifest
    shutil.rmtree(world / "photos")
    assert not recipe.train(again()).is_new, "a finished run needs no photos"


def other_photos(world: Path) -> None:
    photos = sorted((world / "photos").iterdir())
    contents = [photo.read_bytes() for photo in photos]
    for photo, other in zip(photos, [*contents[1:], contents[1]], strict=True):
        photo.write_bytes(other)


def other_base(world: Path) -> None:
    file = world / "base" / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"beta_end": 0.02}))


@pytest.mark.parametrize("num_steps", [2, 4], ids=["finished", "longer"])
@pytest.mark.parametrize(
    ("disturb", "said"), [(other_photos, "trained on other photos"), (other_base, "model.base=.* is not what run was")]
)
def test_contents_that_changed_in_place_are_refused_and_nothing_is_written(
    world: Path, again, monkeypatch, disturb, said: str, num_steps: int
):
    monkeypatch.setattr(recipe, "_train_unfinished", pytest.fail)
    before = files_of(world / "run")
    disturb(world)
    with pytest.raises(UserError, match=said):
        recipe.train(again(num_steps=num_steps))
    assert files_of(world / "run") == before


def test_longer_training_from_a_moved_and_renamed_folder_is_bit_equal(world: Path, again, tmp_path: Path):
    twin = Path(shutil.copytree(world / "run", tmp_path / "twin"))
    recipe.train(replace(again(num_steps=4), output_dir=str(twin)))
    manifest = read_json(world / "run" / "manifest.json")
    (world / "moved").mkdir()
    for photo, name in zip(sorted((world / "photos").iterdir()), "dcba", strict=True):
        photo.rename(world / "moved" / f"{name}.png")
    recipe.train(again(photos="moved", num_steps=4))
    name = "adapter/adapter_model.safetensors"
    assert (world / "run" / name).read_bytes() == (twin / name).read_bytes()
    now = read_json(world / "run" / "manifest.json")
    assert (now["photos"], now["subject"]) == (manifest["photos"], manifest["subject"])


def test_a_run_that_knows_no_contents_is_compared_by_its_settings(world: Path, again):
    run = RunFolder(world / "run")
    manifest = read_json(run.manifest)
    write_json(run.manifest, {key: value for key, value in manifest.items() if key not in ("photos", "base")})
    with pytest.raises(UserError, match=r"begun with model.base=.* \(and 1 more differ\)"):
        recipe.train(again())


def test_a_peft_configuration_that_changed_is_refused(tiny_sd: Path, tmp_path: Path):
    file = tmp_path / "loha.json"
    file.write_text('{"peft_type": "LOHA"}')
    run = RunFolder(tmp_path / "run")
    base = find_base(ModelConfig(base=str(tiny_sd)))
    write_json(run.manifest, {"format": 1, "peft_config": hash_file(file)})
    config = TrainConfig(adapter=AdapterConfig(method="peft", peft_config=str(file)))
    recognise_base(run, config, base)
    file.write_text('{"peft_type": "LOKR"}')
    with pytest.raises(UserError, match=r"adapter.peft_config=.*loha.json: not the file"):
        recognise_base(run, config, base)


@pytest.mark.parametrize(
    ("disturb", "command", "said"),
    [
        (other_base, ["generate", "run", "prompts=a dog"], "is not what run was trained on"),
        (other_base, ["merge", "run", "merged"], "is not what"),
        (other_photos, ["score", "run"], "trained on other photos"),
        (lambda world: shutil.rmtree(world / "photos"), ["score", "run"], "data.photos"),
    ],
    ids=["generate", "merge", "score", "score without photos"],
)
def test_later_stages_refuse_other_contents(world: Path, again, capsys, disturb, command: list[str], said: str):
    recipe.train(again())  # the run knows where it is now
    before = files_of(world / "run")
    disturb(world)
    assert main(command) == 2
    assert said in capsys.readouterr().err
    assert files_of(world / "run") == before and not (world / "merged").exists()


def test_a_base_that_moved_draws_and_another_one_does_not(world: Path, capsys):
    (world / "base").rename(world / "moved")
    draw = ["generate", "run", "prompts=a dog", "images_per_prompt=1", "num_inference_steps=1"]
    assert main([*draw, "model.base=moved", "strength=0"]) == 0
    (world / "moved").rename(world / "base")
    assert main([*draw, "model.base=base"]) == 0
    listings = list((world / "run" / "images").glob("*/images.jsonl"))
    assert len(listings) == 2 and len({read_lines(listing)[0]["base"] for listing in listings}) == 1  # they pair
    other_base(world)
    assert main([*draw, "model.base=base"]) == 2
    assert "give run=run/adapter to try the adapter on another base" in capsys.readouterr().err
