"""The dataset arrives whole or not at all. Offline: zips made here, and an address where nobody answers."""

import io
import zipfile
from pathlib import Path

import pytest
from PIL import Image

import fetch_dreambooth
from delora_sd.data.subjects import dreambooth, subject_names
from delora_sd.errors import UserError
from fetch_dreambooth import fetch

FIVE_BUT = {"duck_toy": 4, "red_cartoon": 4} | dict.fromkeys(
    (
        "backpack",
        "berry_bowl",
        "can",
        "clock",
        "dog2",
        "dog3",
        "fancy_boot",
        "pink_sunglasses",
        "shiny_sneaker",
        "vase",
    ),
    6,
)


def _zip(file: Path, leave_out: tuple[str, ...] = (), extra: tuple[str, ...] = ()) -> Path:
    """A zip like github's, with one small image for all photos."""
    photo = io.BytesIO()
    Image.new("RGB", (20, 20)).save(photo, "JPEG")
    names = [f"dataset/{s}/{i:02d}.jpg" for s in dreambooth()["subjects"] for i in range(FIVE_BUT.get(s, 5))]
    names += ["README.md", "dataset/prompts_and_classes.txt", *extra]
    with zipfile.ZipFile(file, "w") as zipped:
        for name in names:
            if name not in leave_out:
                zipped.writestr(f"dreambooth-main/{name}", photo.getvalue())
    return file


def test_zip_becomes_the_dataset(tmp_path: Path):
    fetch(tmp_path / "data", zip_file=_zip(tmp_path / "a.zip"))
    assert len(subject_names(str(tmp_path / "data"))) == 30
    assert not (tmp_path / "data" / "README.md").exists()


def test_complete_folder_is_left_alone(dreambooth_folder: Path):
    fetch(dreambooth_folder, zip_file=Path("no/such.zip"))


@pytest.mark.parametrize(
    ("leave_out", "message"),
    [
        (("dataset/dog/00.jpg",), "157 photos, expected 158"),
        (tuple(f"dataset/can/{i:02d}.jpg" for i in range(6)), "no folder for can"),
    ],
)
def test_incomplete_zip_leaves_nothing(leave_out: tuple[str, ...], message: str, tmp_path: Path):
    with pytest.raises(UserError, match=message):
        fetch(tmp_path / "data", zip_file=_zip(tmp_path / "a.zip", leave_out))
    assert [path.name for path in tmp_path.iterdir()] == ["a.zip"]


def test_names_in_the_zip_never_leave_the_folder(tmp_path: Path):
    evil = ("dataset/../../evil.jpg", "dataset/dog/../../../evil.jpg", "../dataset/dog/evil.jpg")
    fetch(tmp_path / "inner" / "data", zip_file=_zip(tmp_path / "a.zip", extra=evil))
    assert not list(tmp_path.rglob("evil*"))


def test_what_is_no_zip(tmp_path: Path):
    (tmp_path / "a.zip").write_text("<html>")
    with pytest.raises(UserError, match="not a whole zip file"):
        fetch(tmp_path / "data", zip_file=tmp_path / "a.zip")
    with pytest.raises(UserError, match="no such file"):
        fetch(tmp_path / "data", zip_file=tmp_path / "b.zip")


def test_folder_with_something_else_in_it(tmp_path: Path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(UserError, match="move it away or name another folder"):
        fetch(tmp_path, zip_file=None)


def test_without_a_network_it_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(fetch_dreambooth, "SOURCE", "http://127.0.0.1:9/dreambooth.zip")
    monkeypatch.setattr("urllib.request.getproxies", dict)
    with pytest.raises(UserError, match=r"cannot be reached .*--zip FILE"):
        fetch(tmp_path / "data", zip_file=None)
    assert not (tmp_path / "data").exists()
