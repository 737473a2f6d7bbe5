"""Photos set apart: chosen by (subject, seed), never trained on, never too many."""

import shutil
from pathlib import Path

import pytest

from delora_sd.data.held_out import hold_out, load_run_subject
from delora_sd.data.subjects import Subject, load_subject, subject_names
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig, TrainConfig


def make_subject(folder: Path, count: int, name: str = "rex") -> Subject:
    photos = [folder / f"{index:02d}.png" for index in range(count)]
    for photo in photos:
        photo.write_bytes(photo.name.encode())
    return Subject(name=name, class_word="dog", is_live=True, photos=tuple(photos))


def test_every_photo_is_on_exactly_one_side(tmp_path: Path):
    subject = make_subject(tmp_path, 5)
    for count in range(4):
        divided = hold_out(subject, count, seed=7)
        assert len(divided.held_out) == count and sorted(divided.photos + divided.held_out) == list(subject.photos)
        assert divided.photos == tuple(sorted(divided.photos))


def test_nothing_held_out_is_the_subject_itself(tmp_path: Path):
    subject = make_subject(tmp_path, 1)
    assert hold_out(subject, 0, seed=3) == subject


def test_the_choice_is_a_function_of_subject_and_seed(tmp_path: Path):
    def held_out(seed: int, name: str) -> tuple[str, ...]:
        return tuple(photo.name for photo in hold_out(make_subject(tmp_path, 6, name), 1, seed=seed).held_out)

    assert held_out(0, "rex") == held_out(0, "rex")
    assert len({held_out(seed, "rex") for seed in range(20)}) > 2
    assert len({held_out(0, name) for name in ("rex", "dog", "cat", "toy", "car")}) > 1


def test_more_held_out_keeps_those_that_were(tmp_path: Path):
    subject = make_subject(tmp_path, 6)
    one, two = (hold_out(subject, count, seed=0).held_out for count in (1, 2))
    assert set(one) < set(two)


@pytest.mark.parametrize(
    ("photos", "count", "says"),
    [
        (5, 4, ("4 of the 5 photos of rex leave 1", "at most 3")),
        (3, 9, ("leave 0", "at most 1")),
        (2, 1, ("leave 1", "hold out none, or give more photos")),
        (1, 1, ("leave 0", "hold out none")),
        (5, -1, ("-1", "0 or a positive number")),
    ],
)
def test_too_few_photos_left_are_refused(tmp_path: Path, photos: int, count: int, says: tuple[str, ...]):
    with pytest.raises(UserError) as error:
        hold_out(make_subject(tmp_path, photos), count, seed=0)
    assert all(part in str(error.value) for part in ("data.hold_out", *says))


def test_a_photo_on_both_sides_under_two_names_is_refused(tmp_path: Path):
    subject = make_subject(tmp_path, 4)
    held_out = hold_out(subject, 1, seed=0).held_out[0]
    other = next(photo for photo in subject.photos if photo != held_out)
    shutil.copyfile(held_out, other)
    with pytest.raises(UserError, match=rf"{held_out.name} is held out and {other.name} is the same photo"):
        hold_out(subject, 1, seed=0)


def test_the_settings_of_a_run_divide_its_subject():
    data = DataConfig(subject="dog", dataset="miniature", hold_out=2)
    divided = load_run_subject(TrainConfig(seed=1, data=data))
    assert len(divided.held_out) == 2
    assert sorted(divided.photos + divided.held_out) == list(load_subject(data).photos)


def test_every_dreambooth_subject_can_spare_two(dreambooth_folder: Path):
    for name in subject_names(str(dreambooth_folder)):
        data = DataConfig(subject=name, dataset=str(dreambooth_folder), hold_out=2)
        assert len(load_run_subject(TrainConfig(data=data)).photos) >= 2
