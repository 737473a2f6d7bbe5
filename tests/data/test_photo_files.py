"""Nothing that could be a photo vanishes without a word; what systems leave behind is left alone."""

import warnings
from pathlib import Path

import pytest
from PIL import Image

from delora_sd.data import photo_files
from delora_sd.data.photo_files import find_photos
from delora_sd.errors import UserError

LEFT_BY_SYSTEMS = (
    "._1.png", ".DS_Store", "Thumbs.db", "ehthumbs.db", "desktop.ini", "Icon\r", "1.png~", "~$notes.docx",
    "2.jpg.crdownload",
)  # fmt: skip
FOLDERS_OF_SYSTEMS = (
    "__MACOSX",
    "@eaDir",
    ".ipynb_checkpoints",
    "$RECYCLE.BIN",
    "#recycle",
    "System Volume Information",
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    Image.new("RGB", (20, 20)).save(tmp_path / "1.png")
    return tmp_path


def test_what_systems_leave_behind_is_left_alone_without_a_word(folder: Path):
    for name in LEFT_BY_SYSTEMS:
        (folder / name).write_bytes(b"\0\5\x16\7")
    for name in FOLDERS_OF_SYSTEMS:
        (folder / name).mkdir()
        (folder / name / "1.png").write_bytes(b"x")
    assert find_photos(folder) == (folder / "1.png",)


@pytest.mark.parametrize("name", ["1.txt", "1.caption", "README.md", "meta.json", "IMG_1.AAE", "1.xmp", "classes.csv"])
def test_captions_and_notes_beside_photos_are_no_photos(name: str, folder: Path):
    (folder / name).write_text("x")
    assert find_photos(folder) == (folder / "1.png",)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("clip.MOV", r"clip\.MOV \(a video"),
        ("old.gif", r"old\.gif \(\.gif is not read; save it as \.jpg or \.png\)"),
        ("raw.CR2", r"raw\.CR2 \(\.cr2 is not read"),
        ("photo", r"photo \(a name without an ending"),
        ("1.jpg_large", r"1\.jpg_large \(\.jpg_large is not read"),
    ],
)
def test_what_could_have_been_meant_as_a_photo_is_named_with_the_reason(name: str, reason: str, folder: Path):
    (folder / name).write_bytes(b"x")
    with pytest.warns(UserWarning, match=rf"1 photo is used; left out: {reason}"):
        assert find_photos(folder) == (folder / "1.png",)


def test_photos_in_a_folder_inside_are_counted(folder: Path):
    (folder / "more").mkdir()
    Image.new("RGB", (20, 20)).save(folder / "more" / "2.png")
    with pytest.warns(UserWarning, match=r"more \(a folder; the 1 photos in it are not read\)"):
        find_photos(folder)


def test_many_left_out_files_are_counted(folder: Path):
    for number in range(9):
        (folder / f"{number}.gif").write_bytes(b"x")
    with pytest.warns(UserWarning, match=r"left out: 0\.gif .*4\.gif .* and 4 more$"):
        find_photos(folder)


@pytest.mark.parametrize("suffix", [".heic", ".HEIF", ".hif"])
def test_photos_of_phones_without_their_decoder_are_named_with_what_to_install(
    suffix: str, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(photo_files, "can_read_heic", lambda: False)
    (folder / f"IMG{suffix}").write_bytes(b"x")
    with pytest.warns(UserWarning, match=rf"IMG{suffix} \(`pip install delora_sd\[heic\]`"):
        find_photos(folder)
    (folder / "1.png").unlink()
    with pytest.raises(UserError, match=rf"no photos in .*found 1 {suffix.lower()}; `pip install delora_sd\[heic\]`"):
        find_photos(folder)


@pytest.mark.parametrize("contents", [b"", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", b"no photo at all" * 50])
def test_a_heic_that_its_decoder_does_not_take_is_left_out_and_named(contents: bytes, folder: Path):
    pytest.importorskip("pillow_heif")
    (folder / "IMG_5.HEIC").write_bytes(contents)
    with pytest.warns(UserWarning, match=r"1 photo is used; left out: IMG_5\.HEIC \(a HEIC that its decoder"):
        assert find_photos(folder) == (folder / "1.png",)


def test_one_message_however_often_the_folder_is_read(folder: Path):
    (folder / "old.gif").write_bytes(b"x")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("default")
        find_photos(folder)
        find_photos(folder)
    assert len(said) == 1
