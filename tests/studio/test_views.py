"""What the page shows of runs, choices, images and files: read from folders, escaped, and nothing from elsewhere."""

import pytest
from PIL import Image

from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, write_json, write_lines, write_text
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs import queue
from delora_sd.studio.jobs.queue import add_job
from delora_sd.studio.page.html.curves import draw_curve
from delora_sd.studio.page.html.photos import photo_sheet
from delora_sd.studio.page.html.pieces import esc
from delora_sd.studio.page.html.results import choice_panel, files_panel, gallery_panel
from delora_sd.studio.page.html.trainings import activity_bar, runs_panel
from delora_sd.studio.page.media import DOWNLOADS, IMAGES, find_media
from delora_sd.studio.photos.captions import save_caption
from delora_sd.studio.photos.examine import examine
from delora_sd.studio.photos.subject import list_photos, read_subject
from delora_sd.studio.results.choice import Checkpoint, find_warnings, read_choice_view
from delora_sd.studio.results.files import find_files, zip_folder
from delora_sd.studio.results.images import read_images, side_by_side
from delora_sd.studio.trainings.progress import read_run, read_runs

ATTACK = '"><img src=x onerror=alert(1)><script>alert(2)</script>'


@pytest.fixture
def run(folder: StudioFolder) -> RunFolder:
    """A run half-way: settings, curves, one checkpoint, previews."""
    run = RunFolder(folder.runs / "rex-delora-quick")
    write_text(run.config, f"output_dir: {run.path}\ntraining:\n  num_steps: 200\n")
    write_json(run.manifest, {"format": 1, "subject": {"name": "rex", "class_word": "dog", "is_live": True}})
    events = [
        {"step": step, "loss": 1 / step, "boundary": 2.5, "distance": step / 1e3, "images_per_second": 4.0}
        for step in range(10, 101, 10)
    ]
    write_lines(run.events, [*events, {"step": 100, "layers": {"a": {"distance": 1.0}}}])
    run.checkpoint(100).mkdir(parents=True)
    run.previews.mkdir()
    for number in range(2):
        Image.new("RGB", (8, 8)).save(run.previews / f"step-000100-{number:02d}-a-dog.png")
    return run


def draw(run: RunFolder, name: str, **facts) -> None:
    """Writes one image of a set, and its line."""
    folder = run.images / name
    folder.mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(folder / "00-a-dog-s0.png")
    record = {"file": "00-a-dog-s0.png", "prompt": "a qwe dog", "prompt_index": 0, "seed": 0, "strength": 1.0}
    write_lines(folder / "images.jsonl", [record | facts])


def test_a_run_is_what_its_folder_and_its_job_say(folder, run, monkeypatch):
    view = read_run(folder, run.path.name)
    assert (view.state, view.step, view.num_steps, view.checkpoints) == ("stopped", 100, 200, (100,))
    assert {key: len(curve) for key, curve in view.curves.items()} == {"loss": 10, "boundary": 10, "distance": 10}
    assert [len(files) for files in view.previews.values()] == [2]
    monkeypatch.setattr(queue, "start_worker", lambda folder: None)
    add_job(folder, title="rex", kind="train", commands=[["train"]], runs=[run.path.name])
    assert read_run(folder, run.path.name).state == "waiting"


def test_a_run_of_a_newer_version_says_so_and_hides_no_other(folder, run):
    write_text(folder.runs / "future" / "config.yaml", "training: {num_steps: 3}\n")
    write_json(folder.runs / "future" / "manifest.json", {"format": 99})
    views = {view.name: view for view in read_runs(folder)}
    assert views["future"].state == "unreadable" and "format 99" in views["future"].problem
    assert views[run.path.name].state == "stopped"
    assert "format 99" in runs_panel(folder.runs, list(views.values()))
    with pytest.raises(UserError, match="format 99"):
        folder.run("future")


@pytest.mark.parametrize("content", ["{", '{"step": "x"}\n{}\n', "[]\n[]\n"])
def test_damaged_events_are_said_and_hide_nothing(folder, run, content):
    run.events.write_text(content + "\n{}\n")
    assert read_run(folder, run.path.name).state in ("unreadable", "stopped")


@pytest.mark.parametrize("name", ["../../etc", "..", "", None, "rex-delora-quick/../x"])
def test_a_name_from_the_page_leads_to_a_folder_of_the_studio_or_nowhere(folder, run, name):
    for find in (folder.run, folder.subject):
        with pytest.raises(UserError):
            find(name)


def test_nothing_from_a_file_or_a_person_becomes_markup(folder, run, rex, monkeypatch):
    monkeypatch.setattr(queue, "start_worker", lambda folder: None)
    save_caption(list_photos(rex)[0], ATTACK)
    draw(run, "final-1", prompt=ATTACK, negative_prompt=ATTACK)
    write_text(run.path / "README.md", ATTACK)
    write_json(run.failure, {"step": 3, "reason": ATTACK})
    job = add_job(folder, title=ATTACK, kind=ATTACK, commands=[[ATTACK]], runs=[run.path.name])
    job.log.write_text(ATTACK)
    views = examine(rex, read_subject(rex), size_px=64)
    pages = [
        photo_sheet(rex, views, size_px=64, show_masks=True),
        gallery_panel(folder.runs, read_images(run)),
        files_panel(folder.runs, run),
        runs_panel(folder.runs, read_runs(folder)),
        activity_bar([job], read_runs(folder)),
    ]
    for page in pages:
        assert "<script" not in page and "<img src=x" not in page
    assert all(esc(ATTACK) in page for page in pages[:3])


def test_a_curve_goes_through_its_values_and_says_the_last(run, folder):
    curve = read_run(folder, run.path.name).curves["loss"]
    svg = draw_curve("loss", curve, last_step=200)
    points = svg.split('class="st-line" points="')[1].split('"')[0].split()
    assert len(points) == 10 and "0.01 at step 100" in svg
    assert draw_curve("loss", [(1, 0.5)], last_step=0).count("nan") == 0


def scores(step: int, subject: float, prompt: float, trained: float, *, near: bool = False) -> Checkpoint:
    return Checkpoint(
        step=step, subject=subject, subject_low=subject - 0.01, subject_high=subject + 0.01, prompt=prompt,
        trained=trained, is_near_best=near,
    )  # fmt: skip


def test_warnings_name_copying_overfitting_and_lost_prompts_and_are_silent_otherwise():
    fine = [scores(10, 0.5, 0.3, 0.52), scores(20, 0.6, 0.3, 0.62, near=True)]
    later = [*fine, scores(30, 0.55, 0.2, 0.75)]
    assert find_warnings(later[:2], chosen=10, has_held_out=True) == ()
    assert "longer training" in find_warnings(fine, chosen=20, has_held_out=True)[0]
    assert any(
        text.startswith("Overfitting after step 20") for text in find_warnings(later, chosen=20, has_held_out=True)
    )
    assert any(text.startswith("Copying") for text in find_warnings(later, chosen=30, has_held_out=True))
    assert any(text.startswith("Prompts: step 10") for text in find_warnings(later, chosen=30, has_held_out=True))
    apart = [scores(10, 0.5, 0.3, 0.3), scores(20, 0.6, 0.3, 0.55, near=True)]
    assert not any(text.startswith("Copying") for text in find_warnings(apart, chosen=20, has_held_out=True))
    assert "No photo was held out" in find_warnings(fine, chosen=20, has_held_out=False)[0]


def test_a_choice_is_shown_as_the_judge_wrote_it(folder, run):
    assert read_choice_view(run) is None and "Not compared yet" in choice_panel(folder.runs, None)
    candidates = [vars(scores(10, 0.5, 0.3, 0.52)), vars(scores(20, 0.6, 0.3, 0.62, near=True))]
    record = {"step": 20, "reason": ATTACK, "reference": "held-out photos (a.png)", "protocol": "miniature"}
    write_json(run.path / "choice" / "choice.json", record | {"is_random": True, "candidates": candidates})
    draw(RunFolder(run.path / "choice"), "step-000010-1", step=10)
    panel = choice_panel(folder.runs, read_choice_view(run))
    assert "0.600" in panel and "RANDOM WEIGHTS" in panel and esc(ATTACK) in panel and "step 10" in panel
    write_json(run.path / "choice" / "choice.json", record | {"is_random": True, "candidates": []})
    with pytest.raises(UserError, match="choose again"):
        read_choice_view(run)


def test_images_of_one_prompt_and_seed_stand_side_by_side_base_first_final_last(run):
    draw(run, "final-1")
    draw(run, "base-1", strength=0.0)
    draw(run, "step-000010-1", step=10)
    draw(run, "final-2", strength=0.5)
    rows = side_by_side(read_images(run))
    labels = [image.label for image in rows["a qwe dog", 0]]
    assert labels[:2] == ["base", "step 10"] and set(labels[2:]) == {"final", "final x 0.5"}


@pytest.mark.parametrize("file", ["../../../secret.png", "/etc/hostname", "a/b.png", "00-a.svg", 7])
def test_a_listing_that_leads_elsewhere_shows_nothing(run, tmp_path, file):
    Image.new("RGB", (8, 8)).save(tmp_path / "secret.png")
    draw(run, "final-1", file=file)
    assert read_images(run) == []


def test_the_page_is_given_files_of_runs_and_nothing_else(folder, run, tmp_path):
    secret = tmp_path / "secret.png"
    Image.new("RGB", (8, 8)).save(secret)
    (run.path / "link.png").symlink_to(secret)
    (run.path / ".hidden.png").write_bytes(secret.read_bytes())
    (run.path / "page.svg").write_text("<svg/>")
    (folder.path / "outside.png").write_bytes(secret.read_bytes())
    good = f"{run.path.name}/previews/step-000100-00-a-dog.png"
    assert find_media(folder, good, tuple(IMAGES)).is_file()
    name = run.path.name
    for path in (
        f"{name}/link.png",
        f"{name}/.hidden.png",
        f"{name}/page.svg",
        "../outside.png",
        str(secret),
        "\0.png",
    ):
        with pytest.raises(UserError):
            find_media(folder, path, tuple(IMAGES))
    for path in (f"{name}/config.yaml", f"{name}/manifest.json", good):
        with pytest.raises(UserError):
            find_media(folder, path, DOWNLOADS)


def test_files_to_take_away_are_sorted_by_the_tool_that_loads_them(folder, run):
    run.export.mkdir()
    for name in ("rex.kohya.safetensors", "rex.diffusers.safetensors", ".partial-x~1~rex.kohya.safetensors"):
        (run.export / name).write_bytes(b"x" * 2000)
    (run.export / "rex.peft").mkdir()
    (run.export / "rex.peft" / "adapter_config.json").write_text("{}")
    assert [file.layout for file in find_files(run)] == ["diffusers", "kohya", "peft"]
    panel = files_panel(folder.runs, run)
    assert panel.count("rex.kohya.safetensors?v=") == 2 and "ComfyUI/models/loras" in panel and ".partial" not in panel
    assert b"rex.peft/adapter_config.json" in zip_folder(run.export / "rex.peft")


def test_an_image_is_shown_with_every_setting_it_was_made_with(folder, run):
    draw(run, "final-1", guidance=3.0, extra_adapters={"ab12": 0.5})
    panel = gallery_panel(folder.runs, read_images(run))
    assert "guidance" in panel and "ab12" in panel and "final + 1 more" in panel
