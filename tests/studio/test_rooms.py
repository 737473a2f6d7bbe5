"""What the buttons of each room do to the folder, without a browser: jobs with the right commands, and refusals."""

import shutil
from pathlib import Path

import pytest

from delora_sd.cli.main import load_commands, parse
from delora_sd.config.load import to_yaml
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, write_json, write_text
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs import queue
from delora_sd.studio.jobs.queue import list_jobs
from delora_sd.studio.page.rooms import choose, create, photos, take_away, train
from delora_sd.studio.photos.captions import read_caption
from delora_sd.studio.photos.intake import take_uploads
from delora_sd.studio.photos.subject import create_subject, list_photos, read_subject
from delora_sd.studio.trainings.plan import Wish, plan_trainings

FORM = (["rex"], ["delora"], "quick", "miniature", 0, False, 1, "")
"""Of the second room: subjects, methods, preset, base, seed, captions, weight outside, further settings."""


@pytest.fixture(autouse=True)
def no_worker(monkeypatch):
    monkeypatch.setattr(queue, "start_worker", lambda folder: None)


@pytest.fixture
def run(folder: StudioFolder, rex: Path) -> RunFolder:
    """A run with two checkpoints."""
    training = plan_trainings(folder, Wish(subjects=("rex",), methods=("delora",), preset="quick", base="miniature"))[0]
    run = RunFolder(folder.runs / training.run)
    write_text(run.config, to_yaml(training.config))
    write_json(run.manifest, {"format": 1})
    for step in (40, 80):
        run.checkpoint(step).mkdir(parents=True)
    return run


def asked(folder: StudioFolder) -> list[tuple[str, object]]:
    """Returns (command, its settings as the command line reads them) of the newest job."""
    return [(words[0], parse(load_commands()[words[0]], list(words[1:]))) for words in list_jobs(folder)[0].commands]


def test_the_fourth_photo_holds_one_out_and_what_a_person_chose_stays(folder, uploads, tmp_path):
    create_subject(folder, "rex", "dog")
    copies = [Path(shutil.copy(upload, tmp_path)) for upload in uploads]
    photos.press_upload(folder, "rex", "miniature", False, [str(copy) for copy in copies[:3]])
    assert read_subject(folder.subject("rex")).hold_out == 0
    (kind, said), drop, hold_out, sheet, _ = photos.press_upload(folder, "rex", "miniature", False, [str(copies[3])])
    assert (kind, drop, hold_out) == ("good", None, 1) and sheet.count("held out</span>") == 2
    assert not any(copy.exists() for copy in copies) and said.startswith("1 file taken")
    photos.press_save(folder, "rex", "miniature", False, "corgi dog", "object", 0, "sks")
    facts = read_subject(folder.subject("rex"))
    assert (facts.class_word, facts.is_live, facts.hold_out, facts.identifier) == ("corgi dog", False, 0, "sks")


def test_a_photos_own_controls_change_it_alone(folder, rex):
    first, second, *_ = list_photos(rex)
    photos.press_sheet(folder, "caption", first.name, "in the snow", "rex", "miniature", False)
    photos.press_sheet(folder, "remove", second.name, "", "rex", "miniature", False)
    assert read_caption(first) == "in the snow" and not second.exists() and len(list_photos(rex)) == 3
    with pytest.raises(UserError, match="no photo"):
        photos.press_sheet(folder, "remove", "../../x.png", "", "rex", "miniature", False)


def test_start_adds_the_command_that_was_shown_and_not_twice(folder, rex):
    shown = train.show_plan(folder, *FORM)
    train.press_start(folder, *FORM)
    ((command, config),) = asked(folder)
    assert command == "train" and config.data.photos == str(rex) and config.output_dir.endswith("rex-delora-quick")
    assert f"output_dir={config.output_dir}" in shown and "not measured here yet" in shown
    with pytest.raises(UserError, match="waiting already"):
        train.press_start(folder, *FORM)
    assert len(list_jobs(folder)) == 1


def test_runs_of_a_pack_are_planned_folders_and_one_job(folder, rex, uploads):
    create_subject(folder, "tom", "cat")
    take_uploads(folder.subject("tom"), uploads)
    train.press_start(folder, ["rex", "tom"], *FORM[1:])
    ((command, config),) = asked(folder)
    assert command == "pack" and [Path(run).name for run in config.runs] == ["rex-delora-quick", "tom-delora-quick"]
    assert all((Path(run) / "config.yaml").is_file() for run in config.runs)


def test_measuring_asks_for_the_shape_of_the_training_and_writes_where_it_is_looked_for(folder, rex):
    train.press_measure(folder, *FORM)
    ((command, config),) = asked(folder)
    assert command == "estimate" and config.adapter.boundary == 2.5 and config.training.batch_size == 2
    measured = {"device": "a CPU", "step_seconds": 0.1, "more_seconds": 0.04, "free_bytes": 1e9}
    write_json(Path(config.output), measured | {"fixed_bytes": 5e7, "bytes_per_adapter": 2e7})
    assert "20 s" in train.show_plan(folder, *FORM)
    with pytest.raises(UserError, match="measured already"):
        train.press_measure(folder, *FORM)


def test_choosing_needs_two_checkpoints_and_exports_the_step_that_was_pressed(folder, run):
    choose.press_choose(folder, run.path.name, 2, 12)
    ((command, config),) = asked(folder)
    assert command == "choose" and config.images_per_prompt == 2
    assert config.generate == {"num_inference_steps": 12, "guidance": 3}
    choose.press_export(folder, "export", "40", "", run.path.name, "diffusers")
    ((command, config),) = asked(folder)
    assert (command, config.step, config.layout) == ("export", 40, "diffusers")
    shutil.rmtree(run.checkpoint(40))
    with pytest.raises(UserError, match="1 of at least 2"):
        choose.press_choose(folder, run.path.name, 2, 12)
    with pytest.raises(UserError, match="reload"):
        choose.press_export(folder, "export", "40; rm", "", run.path.name, "diffusers")


def test_create_draws_the_same_seeds_with_the_base_and_another_checkpoint(folder, run):
    form = (run.path.name, "step 80", "a {identifier} {class_word}", False, 0.8, 5, 2, True, "step 40")
    create.press_create(folder, *form, "blurry", [], 1, 20, None)
    configs = [config for _, config in asked(folder)]
    assert [(config.step, config.strength) for config in configs] == [(80, 0.8), (80, 0), (40, 0.8)]
    assert {(config.seed, config.images_per_prompt, config.negative_prompt) for config in configs} == {(5, 2, "blurry")}


def test_a_push_is_private_unless_it_is_said_and_can_be_listed_first(folder, run):
    take_away.press_push(folder, False, run.path.name, "", "me/rex", True)
    ((command, config),) = asked(folder)
    assert (command, config.name, config.private) == ("push", "me/rex", True)
    take_away.press_push(folder, True, run.path.name, "mit", "me/rex", False)
    assert list_jobs(folder)[0].commands[0][-1] == "--dry-run" and not asked(folder)[0][1].private
    with pytest.raises(UserError, match="owner/name"):
        take_away.press_push(folder, False, run.path.name, "", " ", True)
