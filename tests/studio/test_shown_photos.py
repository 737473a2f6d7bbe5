"""Uploads stay in their folder and are what they say; what is wrong with a photo is seen on its pixels."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageFilter

from delora_sd.errors import DiskError, UserError
from delora_sd.studio.photos import intake
from delora_sd.studio.photos.captions import read_caption, save_caption
from delora_sd.studio.photos.examine import examine
from delora_sd.studio.photos.intake import safe_name, take_uploads
from delora_sd.studio.photos.subject import (
    SubjectFacts,
    create_subject,
    list_photos,
    read_subject,
    remove_photo,
    save_subject,
)


def problems_of(photos: Path, *, size_px: int = 64) -> dict[str, str]:
    views = examine(photos, read_subject(photos), size_px=size_px)
    return {view.name: " | ".join(view.problems) for view in views}


def make_photo(seed: int, size: tuple[int, int] = (300, 240)) -> Image.Image:
    """Soft shapes with a sharp one before them, different for every seed."""
    noise = np.random.default_rng(seed)
    shapes = Image.fromarray(noise.integers(0, 255, (6, 8, 3), dtype=np.uint8)).resize(size, Image.Resampling.BICUBIC)
    sharp = Image.fromarray(noise.integers(0, 255, (size[1] // 2, size[0] // 2, 3), dtype=np.uint8))
    shapes.paste(sharp, (size[0] // 4, size[1] // 4))
    return shapes


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../x.png", "x.png"),
        ("..\\..\\windows\\x.PNG", "x.png"),
        ("/etc/passwd.jpg", "passwd.jpg"),
        (".hidden.png", "hidden.png"),
        ("a<b>&\"'\n.jpg", "a-b.jpg"),
        ("...png", "photo.png"),
        ("-rf.png", "rf.png"),
        ("Ünïcode 1.jpeg", "Ünïcode 1.jpeg"),
        (f"{'long' * 100}.png", f"{('long' * 100)[:80]}.png"),
    ],
)
def test_a_name_loses_its_folders_and_whatever_is_no_plain_letter(name, expected):
    assert safe_name(name) == expected


def test_what_is_no_photo_is_refused_by_name_and_leaves_nothing(folder, rex, tmp_path):
    before = sorted(rex.iterdir())
    text, script = tmp_path / "text.png", tmp_path / "run.sh"
    text.write_text("just text\n")
    script.write_text("echo\n")
    taken = take_uploads(rex, [text, script])
    assert "it is a text file" in taken[0].problem and str(tmp_path) not in taken[0].problem
    assert "is no photo" in taken[1].problem
    assert sorted(rex.iterdir()) == before


def test_the_same_photo_is_taken_once_and_the_same_name_twice(rex, uploads, tmp_path):
    other = tmp_path / uploads[0].with_suffix(".png").name
    make_photo(1).save(other)
    taken = take_uploads(rex, [uploads[0], other])
    assert "is here already" in taken[0].problem
    assert taken[1].problem is None and taken[1].name == f"{other.stem}-2.png"
    assert len(list_photos(rex)) == 5


def test_a_photo_above_the_limit_is_refused(rex, tmp_path, monkeypatch):
    monkeypatch.setattr(intake, "MAX_UPLOAD_BYTES", 1000)
    make_photo(2).save(tmp_path / "large.png")
    assert "expected at most 0 MB" in take_uploads(rex, [tmp_path / "large.png"])[0].problem


def test_a_full_disk_leaves_no_part_of_a_photo(rex, tmp_path, monkeypatch):
    def fill(source: Path, target: Path) -> None:
        target.write_bytes(source.read_bytes()[:100])
        raise OSError(28, "No space left on device", str(target))

    before = sorted(rex.iterdir())
    monkeypatch.setattr(intake.shutil, "copyfile", fill)
    make_photo(3).save(tmp_path / "new.png")
    taken = take_uploads(rex, [tmp_path / "new.png"])
    assert "No space left" in taken[0].problem
    assert sorted(rex.iterdir()) == before
    with pytest.raises(DiskError):
        intake._take_photo(rex, tmp_path / "new.png", "new.png")


def test_a_caption_is_text_whatever_it_holds(rex, tmp_path):
    photo, caption = list_photos(rex)[0], "<script>alert(1)</script> {identifier} ${1+1}"
    save_caption(photo, caption)
    assert read_caption(photo) == caption
    with pytest.raises(UserError, match="control character"):
        save_caption(photo, "a\x1b[31m dog")
    save_caption(photo, "  ")
    assert not photo.with_suffix(".txt").exists()


def test_an_uploaded_caption_needs_its_photo_and_overwrites_none(rex, tmp_path):
    stem = list_photos(rex)[0].stem
    for name in (f"{stem}.txt", "nobody.txt"):
        (tmp_path / name).write_text("in the snow")
    taken = take_uploads(rex, [tmp_path / "nobody.txt", tmp_path / f"{stem}.txt"])
    assert "no photo named nobody" in taken[0].problem and taken[1].problem is None
    assert "has a caption already" in take_uploads(rex, [tmp_path / f"{stem}.txt"])[0].problem


def test_removing_a_photo_takes_its_caption_and_mask(rex):
    photo = list_photos(rex)[0]
    save_caption(photo, "in the snow")
    (rex / "masks").mkdir()
    (rex / "masks" / f"{photo.stem}.png").write_bytes(b"x")
    remove_photo(rex, photo.name)
    assert not [path for path in rex.rglob("*") if path.stem == photo.stem]


@pytest.mark.parametrize("name", ["../../x", "a/b", "", "  ", ".git", "a.b", "x" * 61, "a\nb", "-rf"])
def test_a_subject_has_a_plain_name(folder, name):
    with pytest.raises(UserError, match="name"):
        create_subject(folder, name, "dog")
    assert list(folder.photos.iterdir()) == []


def test_the_miniatures_own_photos_have_no_problems(rex):
    assert set(problems_of(rex).values()) == {""}


def test_blur_is_seen_and_a_soft_background_is_not_blur(rex, tmp_path):
    make_photo(4).save(tmp_path / "sharp.png")
    make_photo(5).filter(ImageFilter.GaussianBlur(6)).save(tmp_path / "soft.png")
    take_uploads(rex, [tmp_path / "sharp.png", tmp_path / "soft.png"])
    found = problems_of(rex)
    assert "blurred" in found["soft.png"] and "blurred" not in found["sharp.png"]


def test_real_photos_are_not_called_blurred_or_twins_and_blurred_ones_are(dreambooth_folder, folder, tmp_path):
    create_subject(folder, "real", "dog")
    photos = sorted((dreambooth_folder / "dog").glob("*.jpg"))[:3]
    blurred = tmp_path / "blurred.png"
    Image.open(photos[0]).convert("RGB").resize((512, 512)).filter(ImageFilter.GaussianBlur(5)).save(blurred)
    take_uploads(folder.subject("real"), [*photos, blurred])
    found = problems_of(folder.subject("real"), size_px=512)
    assert "blurred:" in found["blurred.png"]
    assert not any("blurred:" in text for name, text in found.items() if name != "blurred.png")


def test_a_near_twin_is_seen_after_scaling_and_new_compression(rex, tmp_path):
    make_photo(6).save(tmp_path / "one.png")
    make_photo(6).resize((250, 200)).save(tmp_path / "two.jpg", quality=80)
    make_photo(7).save(tmp_path / "three.png")
    take_uploads(rex, [tmp_path / "one.png", tmp_path / "two.jpg", tmp_path / "three.png"])
    found = problems_of(rex)
    assert "nearly the same as two.jpg" in found["one.png"] and "nearly" not in found["three.png"]


def test_small_and_long_photos_are_seen(rex, tmp_path):
    make_photo(8, (200, 100)).save(tmp_path / "long.png")
    take_uploads(rex, [tmp_path / "long.png"])
    found = problems_of(rex, size_px=128)
    assert "small: 100 px" in found["long.png"] and "leaves out 50%" in found["long.png"]


def test_masks_show_two_subjects_and_what_the_square_cuts_off(rex, tmp_path):
    make_photo(9, (300, 200)).save(tmp_path / "pair.png")
    take_uploads(rex, [tmp_path / "pair.png"])
    mask = np.zeros((200, 300), np.uint8)
    mask[60:140, 2:90] = 255  # the square begins at 50: nearly half of it is cut
    mask[60:140, 160:230] = 255
    (rex / "masks").mkdir()
    Image.fromarray(mask).save(rex / "masks" / "pair.png")
    assert "two subjects?" in problems_of(rex)["pair.png"] and "cuts off" in problems_of(rex)["pair.png"]
    mask[60:140, 90:160] = 255  # joined: one subject
    Image.fromarray(mask).save(rex / "masks" / "pair.png")
    assert "two subjects?" not in problems_of(rex)["pair.png"]


def test_a_damaged_photo_hides_no_other(rex):
    (rex / "damaged.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 40)
    found = problems_of(rex)
    assert "damaged" in found["damaged.png"] and len(found) == 5


def test_held_out_photos_are_those_that_training_holds_out(rex):
    from delora_sd.data.held_out import load_run_subject
    from delora_sd.settings import DataConfig, TrainConfig

    facts = replace(read_subject(rex), hold_out=2)
    save_subject(rex, facts)
    shown = {view.name for view in examine(rex, facts, size_px=64, seed=3) if view.is_held_out}
    config = TrainConfig(seed=3, data=DataConfig(photos=str(rex), class_word="dog", hold_out=2))
    assert shown == {photo.name for photo in load_run_subject(config).held_out} and len(shown) == 2


def test_more_cannot_be_held_out_than_training_allows(rex):
    with pytest.raises(UserError, match="at most 2"):
        save_subject(rex, SubjectFacts(class_word="dog", hold_out=3))
