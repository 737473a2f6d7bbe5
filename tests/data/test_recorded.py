"""A run's photos are recognised by contents: moved and renamed they are the same, changed in place they are not."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from delora_sd.data.held_out import hold_out
from delora_sd.data.recorded import recognise_subject
from delora_sd.data.subjects import Subject, load_subject
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import FORMAT_VERSION, RunFolder, write_json
from delora_sd.settings import DataConfig


@pytest.fixture
def photos(photo_folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(photo_folder, tmp_path / "rex"))


def load(folder: Path) -> Subject:
    return load_subject(DataConfig(photos=str(folder), class_word="dog"))


def record(folder: Path, subject: Subject, **changes) -> RunFolder:
    """A run that was begun with this subject."""
    manifest = {
        "format": FORMAT_VERSION,
        "subject": {"name": subject.name, "class_word": subject.class_word, "is_live": subject.is_live},
        "photos": {photo.name: hash_file(photo) for photo in subject.photos},
        "held_out": {photo.name: hash_file(photo) for photo in subject.held_out},
    }
    write_json(RunFolder(folder).manifest, manifest | changes)
    return RunFolder(folder)


def recognise(run: RunFolder, subject: Subject) -> Subject:
    return recognise_subject(run, subject, advice="bring them back")


def test_moved_and_renamed_photos_keep_their_order_name_and_division(photos: Path, tmp_path: Path):
    before = hold_out(load(photos), 1, seed=0)
    run = record(tmp_path / "run", before)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for photo, name in zip(sorted(photos.iterdir()), "dcba", strict=True):
        shutil.move(photo, moved / f"{name}.png")
    now = recognise(run, load(moved))
    assert now.name == "rex" and len(now.held_out) == 1 and len(now.photos) == 3
    recorded = run.read_manifest()
    assert [hash_file(photo) for photo in now.photos] == [
        recorded["photos"][name] for name in sorted(recorded["photos"])
    ]
    assert [hash_file(photo) for photo in now.held_out] == list(recorded["held_out"].values())


def change(folder: Path) -> None:
    shutil.copyfile(folder / "01.png", folder / "00.png")


def remove(folder: Path) -> None:
    (folder / "02.png").unlink()


def add(folder: Path) -> None:
    (folder / "new.png").write_bytes((folder / "03.png").read_bytes() + b"\0")


def add_a_twin(folder: Path) -> None:
    shutil.copyfile(folder / "03.png", folder / "twin.png")


@pytest.mark.parametrize(
    ("disturb", "said"),
    [
        (change, "00.png has changed"),
        (remove, "02.png is missing"),
        (add, "new.png is new"),
        (add_a_twin, "twin.png is new"),
    ],
)
def test_other_photos_are_named(photos: Path, tmp_path: Path, disturb, said: str):
    run = record(tmp_path / "run", load(photos))
    disturb(photos)
    with pytest.raises(UserError, match=f"trained on other photos than .*rex holds: .*{said}.*; bring them back"):
        recognise(run, load(photos))


def test_another_class_word_is_refused(photos: Path, tmp_path: Path):
    run = record(tmp_path / "run", load(photos))
    with pytest.raises(UserError, match=r"data.class_word=dog, now it is cat"):
        recognise(run, replace(load(photos), class_word="cat"))


def test_a_run_that_lists_no_photos_takes_any(photos: Path, tmp_path: Path):
    run = record(tmp_path / "run", load(photos), photos={}, held_out={})
    change(photos)
    assert recognise(run, load(photos)).photos == load(photos).photos
