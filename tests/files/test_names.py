"""Names too long for a file system are refused at the door, in any script; shorter ones work to the end."""

import os
from pathlib import Path

import pytest

from delora_sd.errors import UserError
from delora_sd.files.leftovers import old_name, temporary_name
from delora_sd.files.run_folder import RUN_FOLDER_ROOM, RunFolder, check_length, write_folder, write_text
from delora_sd.settings import TrainConfig
from delora_sd.training.before.door import check_config

LETTERS = ["x", "é", "犬", "🐶"]


@pytest.mark.parametrize("letter", LETTERS)
def test_a_run_folder_whose_exports_would_have_no_name_is_refused(letter: str, tmp_path: Path):
    size = len(letter.encode())
    longest = (255 - RUN_FOLDER_ROOM) // size
    check_config(TrainConfig(output_dir=str(tmp_path / (letter * longest))))
    with pytest.raises(UserError, match=r"output_dir: the name '.*' has \d+ bytes; expected at most 220") as caught:
        check_config(TrainConfig(output_dir=str(tmp_path / (letter * (longest + 1)))))
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("letter", LETTERS)
def test_every_file_of_the_longest_run_name_can_be_written(letter: str, tmp_path: Path):
    run = RunFolder(tmp_path / (letter * ((255 - RUN_FOLDER_ROOM) // len(letter.encode()))))
    write_text(run.export / f"{run.path.name}-step001400.diffusers.safetensors", "x")
    write_folder(run.path / "adapter", lambda folder: write_text(folder / "a", "x"))
    assert len(list(run.export.iterdir())) == 1


@pytest.mark.parametrize("letter", LETTERS)
def test_names_of_what_is_being_written_fit_for_every_name_that_fits(letter: str, tmp_path: Path):
    name = letter * (255 // len(letter.encode()))
    for path in (tmp_path / name, tmp_path / f"{name[:-5]}.txt"):
        assert len(os.fsencode(temporary_name(path).name)) <= 255
        assert len(os.fsencode(old_name(path).name)) <= 255
        write_text(path, "first")
        write_text(path, "second")
        assert path.read_text() == "second"


@pytest.mark.parametrize("middle", ["x" * 256, "犬" * 86])
def test_a_folder_above_with_too_long_a_name_is_named(middle: str, tmp_path: Path):
    with pytest.raises(UserError, match=r"output: the name .* has 25[68] bytes; expected at most 255"):
        check_length(tmp_path / middle / "rex", setting="output")


def test_a_path_too_long_for_the_system_is_refused(tmp_path: Path):
    with pytest.raises(UserError, match=r"the path has .* bytes; expected at most 3795"):
        check_length(tmp_path.joinpath(*["x" * 200] * 20), setting="output_dir")
