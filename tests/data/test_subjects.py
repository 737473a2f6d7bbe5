"""Who is to be learned, and what is refused at the door."""

import shutil
from pathlib import Path

import pytest

from delora_sd.data.subjects import dreambooth, is_live_class, load_subject, subject_names
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig


def test_dreambooth_facts_are_googles(dreambooth_folder: Path):
    text = (dreambooth_folder / "prompts_and_classes.txt").read_text()
    rows = [line.split(",") for line in text.split("Prompts")[0].splitlines() if line.count(",") == 1]
    assert dreambooth()["subjects"] == dict(rows[1:])
    lists = [block.split("]")[0] for block in text.split("prompt_list = [")[1:]]
    for kind, block in zip(("object", "live"), lists, strict=True):
        googles = [line.split("'")[1] for line in block.splitlines() if "'" in line]
        ours = [p.replace("{identifier}", "{0}").replace("{class_word}", "{1}") for p in dreambooth()["prompts"][kind]]
        assert ours == googles and len(ours) == 25


def test_every_dreambooth_subject_loads(dreambooth_folder: Path):
    names = subject_names(str(dreambooth_folder))
    subjects = [load_subject(DataConfig(subject=name, dataset=str(dreambooth_folder))) for name in names]
    assert names == tuple(sorted(names)) and len(names) == 30
    assert names[:3] == ("backpack", "backpack_dog", "bear_plushie")
    assert sum(len(subject.photos) for subject in subjects) == 158
    assert sum(subject.is_live for subject in subjects) == 9
    assert {s.name: len(s.photos) for s in subjects}["duck_toy"] == 4


def test_own_photos_become_a_subject(photo_folder: Path):
    subject = load_subject(DataConfig(photos=str(photo_folder), class_word="corgi dog"))
    assert (subject.name, subject.class_word, subject.is_live) == (photo_folder.name, "corgi dog", True)
    assert [photo.name for photo in subject.photos] == ["00.png", "01.png", "02.png", "03.png"]


def test_is_live_can_be_said(photo_folder: Path):
    subject = load_subject(DataConfig(photos=str(photo_folder), class_word="hot dog", is_live=False))
    assert subject.is_live is False
    assert is_live_class("Cat") and not is_live_class("stuffed animal")


def test_hidden_files_and_other_files_are_left_alone(photo_folder: Path, tmp_path: Path):
    folder = tmp_path / "rex"
    shutil.copytree(photo_folder, folder)
    (folder / "._00.jpg").write_bytes(b"Mac OS resource fork")
    (folder / "notes.txt").write_text("taken in May")
    assert len(load_subject(DataConfig(photos=str(folder), class_word="dog")).photos) == 4


def test_names_need_not_be_ascii(photo_folder: Path, tmp_path: Path):
    folder = tmp_path / "Mäxchen 犬"
    folder.mkdir()
    shutil.copy(photo_folder / "00.png", folder / "Фото №1.PNG")
    assert load_subject(DataConfig(photos=str(folder), class_word="dog")).name == "Mäxchen 犬"


def test_a_dataset_may_bring_its_own_list(photo_folder: Path, tmp_path: Path):
    shutil.copytree(photo_folder, tmp_path / "rex")
    (tmp_path / "classes.csv").write_text("subject_name,class\nrex,dog\n")
    assert subject_names(str(tmp_path)) == ("rex",)
    assert load_subject(DataConfig(subject="rex", dataset=str(tmp_path))).class_word == "dog"


def _loop(folder: Path) -> None:
    (folder / "a.jpg").symlink_to(folder / "b.jpg")
    (folder / "b.jpg").symlink_to(folder / "a.jpg")


def _videos(folder: Path) -> None:
    for i in range(3):
        (folder / f"{i}.mkv").write_bytes(b"\x1aE")


BAD_FOLDERS = {
    "empty": (lambda folder: None, "no photos in .*found nothing"),
    "videos": (_videos, "expected .jpg, .png or .webp, found 3 .mkv"),
    "video": (lambda folder: (folder / "clip.mp4").write_bytes(b"x"), "1 .mp4; save 4 to 6 frames"),
    "folder_named_jpg": (lambda folder: (folder / "a.jpg").mkdir(), "not a file"),
    "symlink_loop": (_loop, "a.jpg: not a file .*leads nowhere"),
}


@pytest.mark.parametrize("name", BAD_FOLDERS)
def test_bad_folder_is_one_clear_line(name: str, tmp_path: Path):
    make, message = BAD_FOLDERS[name]
    make(tmp_path)
    with pytest.raises(UserError, match=message) as caught:
        load_subject(DataConfig(photos=str(tmp_path), class_word="dog"))
    assert "\n" not in str(caught.value)


def test_folder_that_is_a_loop_of_links(tmp_path: Path):
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    with pytest.raises(UserError, match="symbolic links"):
        load_subject(DataConfig(photos=str(tmp_path / "a"), class_word="dog"))


BAD_SETTINGS = {
    "neither": (DataConfig(), "no subject"),
    "both": (DataConfig(subject="dog", photos="x"), "both given; give one"),
    "no_class_word": (DataConfig(photos="x"), "data.class_word is missing"),
    "blank_class_word": (DataConfig(photos="x", class_word="  "), "data.class_word is missing"),
    "missing_folder": (DataConfig(photos="no/such", class_word="dog"), "photo folder no/such: No such file"),
    "missing_dataset": (DataConfig(subject="dog", dataset="no/such"), "no such folder; bring the dataset with"),
    "file_instead": (DataConfig(photos=__file__, class_word="dog"), "expected a folder of photos, found a .py file"),
}


@pytest.mark.parametrize("name", BAD_SETTINGS)
def test_bad_settings_are_one_clear_line(name: str):
    config, message = BAD_SETTINGS[name]
    with pytest.raises(UserError, match=message):
        load_subject(config)


def test_unknown_subject_names_the_nearest(dreambooth_folder: Path):
    with pytest.raises(UserError, match=r"unknown subject 'dgo'.*did you mean 'dog'"):
        load_subject(DataConfig(subject="dgo", dataset=str(dreambooth_folder)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("subject_name,class\nrex,dog\nrex,cat\n", "'rex' is listed twice"),
        ("subject_name,class\n../rex,dog\n", "every name the name of a folder"),
        ("name\nrex\n", "expected the columns"),
        ("subject_name,class\nrex,\n", "expected the columns"),
    ],
)
def test_bad_list_of_subjects(text: str, message: str, tmp_path: Path):
    (tmp_path / "classes.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        subject_names(str(tmp_path))


def test_dataset_without_any_subject(tmp_path: Path):
    with pytest.raises(UserError, match=r"no DreamBooth subject and no classes\.csv"):
        subject_names(str(tmp_path))
