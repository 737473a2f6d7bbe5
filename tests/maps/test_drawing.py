"""Images from maps: what decides them, how they are named, and that a stop is no loss."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler
from PIL import Image

from delora_sd.cli.main import main
from delora_sd.diffusion.bases import find_base
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_lines
from delora_sd.maps.ddim import Ddim
from delora_sd.maps.draw import seed_of_map
from delora_sd.maps.generate import generate
from delora_sd.maps.settings import MapGenerateConfig
from delora_sd.settings import ModelConfig


@pytest.fixture
def own_maps(map_folder: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "maps"
    shutil.copytree(map_folder / "val" / "maps", folder)
    return folder


def draw(run: Path, maps: Path, output: Path, **more) -> dict[str, np.ndarray]:
    settings = {
        "prompts": ("a dog",),
        "num_inference_steps": 2,
        "images_per_prompt": 1,
        "solver": "ddim",
        "guidance": 3,
    }
    folder = generate(MapGenerateConfig(run=str(run), maps=str(maps), output_dir=str(output), **(settings | more)))
    return {
        record["map"]: np.asarray(Image.open(folder / record["file"])) for record in read_lines(folder / "images.jsonl")
    }


def test_an_image_depends_on_its_map_prompt_and_seed_never_on_its_batch(map_run: Path, own_maps: Path, tmp_path: Path):
    together = draw(map_run, own_maps, tmp_path / "a", batch_size=4)
    (own_maps / "val-0000.png").unlink()
    alone = draw(map_run, own_maps, tmp_path / "b", batch_size=1)
    assert sorted(together) == [f"val-000{index}.png" for index in range(4)] and len(alone) == 3
    for name, image in alone.items():
        assert np.abs(image.astype(int) - together[name]).max() <= 1, "rounding of a batch, no more"


def test_another_map_is_another_image_from_the_same_noise(map_run: Path, own_maps: Path, tmp_path: Path):
    before = draw(map_run, own_maps, tmp_path / "a")
    shutil.copy(own_maps / "val-0001.png", own_maps / "val-0000.png")
    after = draw(map_run, own_maps, tmp_path / "b")
    changed = [name for name in before if not np.array_equal(before[name], after[name])]
    assert changed == ["val-0000.png"]


def test_what_is_there_is_not_drawn_again_and_what_was_lost_comes_back_the_same(
    map_run: Path, own_maps: Path, tmp_path: Path
):
    draw(map_run, own_maps, tmp_path / "a", batch_size=2)
    (folder,) = (tmp_path / "a" / "images").iterdir()
    files = sorted(folder.glob("*.png"))
    before, lost = {file.name: file.read_bytes() for file in files}, files[1]
    lost.unlink()
    kept = files[3].stat().st_mtime_ns
    draw(map_run, own_maps, tmp_path / "a", batch_size=2)
    assert {file.name: file.read_bytes() for file in folder.glob("*.png")} == before
    assert files[3].stat().st_mtime_ns == kept


def test_a_subjects_adapter_goes_on_top(map_run: Path, own_maps: Path, finished_run: Path, tmp_path: Path):
    plain = draw(map_run, own_maps, tmp_path / "a")
    both = draw(map_run, own_maps, tmp_path / "b", extra_adapters={str(finished_run): 1.5})
    assert any(not np.array_equal(plain[name], both[name]) for name in plain)


def test_a_caption_for_each_map_takes_the_prompts_place(
    map_run: Path, own_maps: Path, tmp_path: Path, map_folder: Path
):
    draw(map_run, own_maps, tmp_path / "a", captions=str(map_folder / "val" / "captions.json"))
    (folder,) = (tmp_path / "a" / "images").iterdir()
    prompts = {record["map"]: record["prompt"] for record in read_lines(folder / "images.jsonl")}
    assert len(prompts) == 4 and all(text.startswith("a ") and text != "a dog " for text in prompts.values())


def test_checkpoints_draw_too_and_unknown_ones_are_named(map_run: Path, own_maps: Path, tmp_path: Path):
    assert len(draw(map_run, own_maps, tmp_path / "a", step=2)) == 4
    with pytest.raises(UserError, match=r"no such checkpoint; it has: 2, 4"):
        draw(map_run, own_maps, tmp_path / "b", step=3)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["maps=nowhere", "prompts=a dog"], "no such folder"),
        (["maps={maps}"], "say what the maps show"),
        (["maps={maps}", "prompts=a dog", "step=9"], "no such checkpoint"),
        (["solver=ddim", "prompts=a dog"], "only with maps=FOLDER"),
    ],
)
def test_what_cannot_be_drawn_is_said_in_one_line(map_run: Path, own_maps: Path, given: list[str], words: str, capsys):
    assert main(["generate", str(map_run), *(word.replace("{maps}", str(own_maps)) for word in given)]) == 2
    assert words in capsys.readouterr().err


def test_a_subjects_run_draws_no_maps(finished_run: Path, own_maps: Path):
    with pytest.raises(UserError, match="was not trained on maps"):
        generate(MapGenerateConfig(run=str(finished_run), maps=str(own_maps), prompts=("a dog",)))


def test_every_map_has_noise_of_its_own():
    seeds = {seed_of_map(name, seed) for name in ("a", "b", "c") for seed in (0, 1)}
    assert len(seeds) == 6 and seed_of_map("a", 0) == seed_of_map("a", 0)


def test_ddim_steps_as_diffusers_pipeline_does(tiny_sd: Path):
    base = find_base(ModelConfig(base=str(tiny_sd)))
    ours = Ddim(base, 5, device="cpu")
    theirs = DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip
    theirs.set_timesteps(5)
    assert ours.times.tolist() == theirs.timesteps.tolist()
    generator = torch.Generator().manual_seed(0)
    latents = expected = torch.randn(1, 4, 8, 8, generator=generator)
    for position, time in enumerate(theirs.timesteps):
        prediction = torch.randn(1, 4, 8, 8, generator=generator)
        latents = ours.step(prediction, position, latents)
        expected = theirs.step(prediction, time, expected).prev_sample
    assert torch.equal(latents, expected)
