"""`delora-sd choose`: which step wins and why, on scores, and on images whose truth is known."""

import shutil
from pathlib import Path

import pytest
import torch
from PIL import Image
from standins import draw_image, make_judge, write_run

from delora_eval.choice.choose import choose_step, read_choice, render_choice
from delora_eval.choice.prompts import SEED_OFFSET, split_prompts
from delora_eval.choice.rule import judge_candidates, leave_one_out, pick
from delora_eval.settings import ChooseConfig
from delora_sd.config.load import load_config, to_yaml
from delora_sd.data.held_out import load_run_subject
from delora_sd.data.prompts import benchmark_prompts
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, write_lines, write_text
from delora_sd.settings import GenerateConfig, TrainConfig


def scores(**by_step: tuple[float, ...]) -> dict[int, dict[str, float]]:
    return {int(step[1:]): {str(i): value for i, value in enumerate(values)} for step, values in by_step.items()}


def test_the_best_subject_score_wins_when_it_is_beyond_noise():
    subject = scores(s100=(0.2, 0.21, 0.2), s200=(0.6, 0.61, 0.6), s300=(0.4, 0.41, 0.4))
    prompt = scores(s100=(0.9,) * 3, s200=(0.3,) * 3, s300=(0.5,) * 3)
    chosen, reason = pick(judge_candidates(subject, prompt, subject))
    assert chosen.step == 200 and "higher than that of every other step" in reason


def test_among_steps_as_good_as_the_best_the_one_that_follows_its_prompts_wins():
    subject = scores(s100=(0.2, 0.2, 0.2, 0.2), s200=(0.5, 0.7, 0.5, 0.7), s300=(0.7, 0.5, 0.7, 0.52))
    prompt = scores(s100=(0.9,) * 4, s200=(0.6,) * 4, s300=(0.4,) * 4)
    candidates = judge_candidates(subject, prompt, subject)
    assert [each.is_near_best for each in candidates] == [False, True, True]
    chosen, reason = pick(candidates)
    assert chosen.step == 200 and "cannot be told from the best" in reason and "300" in reason


def test_between_equals_the_earlier_step_wins():
    same = scores(s100=(0.5, 0.6), s200=(0.5, 0.6))
    assert pick(judge_candidates(same, same, same))[0].step == 100


def test_leave_one_out_gives_a_copy_nothing_for_the_photo_it_copies():
    photos = torch.nn.functional.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    left = [float(photos[1] @ photos[i]) for i in (0, 2, 3)]
    assert leave_one_out(photos, photos[1:2]).item() == pytest.approx(sum(left) / 3, abs=1e-6)


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of three checkpoints that holds one of four photos out."""
    run = RunFolder(write_run(tmp_path))
    draw_image(tmp_path / "photos" / "3.png", seed=103)
    config = load_config(TrainConfig, [run.config], ["data.hold_out=1"])
    write_text(run.config, to_yaml(config))
    (run.manifest).unlink()
    for step in (100, 200, 300):
        run.checkpoint(step).mkdir(parents=True)
    return run


def drawing(run: RunFolder, files: dict[int, Path], asked: list[GenerateConfig]):
    """A generator whose images at a step are all one file, a little different each."""

    def generate(settings: GenerateConfig) -> Path:
        asked.append(settings)
        folder, lines = Path(settings.output_dir) / "images" / f"step-{settings.step}", []
        for index, template in enumerate(settings.prompts):
            for seed in range(settings.seed, settings.seed + settings.images_per_prompt):
                name = f"{index:02d}-s{seed}.png"
                folder.mkdir(parents=True, exist_ok=True)
                image = Image.open(files[settings.step]).convert("RGB")
                image.putpixel((index, seed % 7), (9, 9, 9))
                image.save(folder / name)
                prompt = template.replace("{identifier}", "qwe").replace("{class_word}", "dog")
                lines.append(
                    {"file": name, "prompt": prompt, "prompt_index": index, "seed": seed, "step": settings.step}
                )
        write_lines(folder / "images.jsonl", lines)
        return folder

    return generate


def test_the_step_that_is_like_the_held_out_photo_is_chosen_not_the_one_that_copies(run: RunFolder, tmp_path: Path):
    subject = load_run_subject(load_config(TrainConfig, [run.config], []))
    noise, asked = draw_image(tmp_path / "noise.png", seed=9), []
    files = {100: noise, 200: subject.held_out[0], 300: subject.photos[0]}
    choice = choose_step(ChooseConfig(run=str(run.path), images_per_prompt=2), drawing(run, files, asked), make_judge())
    assert choice.step == 200 and subject.held_out[0].name in choice.reference
    by_step = {each.step: each for each in choice.candidates}
    assert by_step[300].trained > by_step[200].trained and by_step[200].subject > by_step[300].subject
    assert [settings.step for settings in asked] == [100, 200, 300]
    choosing, reporting = split_prompts(benchmark_prompts(True))
    assert all(settings.prompts == choosing and settings.seed >= SEED_OFFSET for settings in asked)
    assert not set(choosing) & set(reporting)
    assert read_choice(run)["step"] == 200 and (run.path / "choice" / "curve.png").stat().st_size > 1000
    assert "chosen" in render_choice(choice) and choice.reason in render_choice(choice)
    assert not list(run.images.glob("step-*")), "images that choose are not among those a report looks at"


def test_without_held_out_photos_each_image_leaves_its_nearest_photo_out(run: RunFolder, tmp_path: Path):
    write_text(run.config, to_yaml(load_config(TrainConfig, [run.config], ["data.hold_out=0"])))
    files = {step: draw_image(tmp_path / f"{step}.png", seed=step) for step in (100, 200, 300)}
    choice = choose_step(ChooseConfig(run=str(run.path)), drawing(run, files, []), make_judge())
    assert choice.reference == "the trained photos, leaving out the nearest"


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"steps": (150,)}, "has no checkpoint 150; it has 100, 200, 300"),
        ({"steps": (100,)}, "1 checkpoint to choose from"),
        ({"generate": {"seed": 3}}, "generate: seed is decided by the choice"),
        ({"prompts": ("a photo of a {class_word}",)}, "must name the subject"),
    ],
)
def test_what_cannot_choose_is_refused(run: RunFolder, tmp_path: Path, settings: dict, says: str):
    files = dict.fromkeys((100, 200, 300), draw_image(tmp_path / "noise.png", seed=9))
    with pytest.raises(UserError, match=says):
        choose_step(ChooseConfig(run=str(run.path), **settings), drawing(run, files, []), make_judge())


def test_one_photo_is_too_few_to_choose_by(run: RunFolder, tmp_path: Path):
    write_text(run.config, to_yaml(load_config(TrainConfig, [run.config], ["data.hold_out=0"])))
    for photo in sorted((tmp_path / "photos").iterdir())[1:]:
        photo.unlink()
    with pytest.raises(UserError, match="one photo and none is held out"):
        choose_step(ChooseConfig(run=str(run.path)), drawing(run, {}, []), make_judge())


def test_a_folder_that_is_no_run_is_said(tmp_path: Path):
    shutil.rmtree(tmp_path / "x", ignore_errors=True)
    with pytest.raises(UserError, match="not a run folder"):
        choose_step(ChooseConfig(run=str(tmp_path / "x")), drawing(RunFolder(tmp_path), {}, []), make_judge())
