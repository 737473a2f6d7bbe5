"""What people give by mistake, through the real command line: one line that says what, where and what to do.

Exit code 2, no traceback, nothing written. What only looks bad (a photo turned by EXIF, a path with `..`) works.
"""

import subprocess
import sys
import warnings

import pytest
from bad_inputs import folders, judges, models, photos, prompts, settings
from bad_inputs.case import Case, World, snapshot

from delora_sd.cli.main import main
from delora_sd.files.run_folder import read_json

REFUSED = [case for area in (photos, settings, models, prompts, folders, judges) for case in area.REFUSED]
ACCEPTED = [case for area in (settings, prompts) for case in area.ACCEPTED]


def named(cases: list[Case]) -> dict:
    return {"argvalues": cases, "ids": [case.name for case in cases]}


def test_there_are_enough_cases_and_each_has_its_own_name():
    names = [case.name for case in (*REFUSED, *ACCEPTED)]
    assert len(names) >= 100 and len(set(names)) == len(names)


@pytest.mark.parametrize("case", **named(REFUSED))
def test_bad_input_is_one_clear_line_and_nothing_is_written(case: Case, world: World, capsys):
    arguments = case.command(world)
    before = snapshot(world.folder)
    code = main(arguments)
    errors = capsys.readouterr().err
    assert code == 2, errors
    assert errors.startswith("delora-sd: ") and errors.count("\n") == 1, errors
    assert all(part in errors for part in case.says), errors
    assert "Traceback" not in errors and len(errors) < 1000
    assert snapshot(world.folder) == before


@pytest.mark.parametrize("case", **named(ACCEPTED))
def test_odd_input_works(case: Case, world: World, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        code = main(case.command(world))
    errors = capsys.readouterr().err
    assert code == 0, errors
    assert all(part in errors for part in case.says), errors


def test_photos_of_every_odd_kind_train_together_and_none_is_left_out(world: World, capsys):
    for name, content in photos.ODD.items():
        world.path(f"photos/{name}", content())
    code = main(world.train(f"data.photos={world.folder / 'photos'}"))
    assert (code, capsys.readouterr().err.count("warning")) == (0, 0)
    assert len(read_json(world.out / "manifest.json")["photos"]) == len(photos.ODD)


@pytest.mark.parametrize("flags", [(), ("--debug",)])
@pytest.mark.parametrize("name", ["a typo in a key", "a YAML bomb", "status on a folder that is no benchmark"])
def test_as_typed_in_a_shell(name: str, flags: tuple[str, ...], world: World):
    """The same in a process of its own: the exit code is the shell's, and only --debug shows a traceback."""
    case = next(case for case in REFUSED if case.name == name)
    command = [sys.executable, "-m", "delora_sd.cli", *case.command(world), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 2 and done.stdout == ""
    assert all(part in done.stderr.splitlines()[-1] for part in case.says)
    assert ("Traceback" in done.stderr) == bool(flags) and (flags or done.stderr.count("\n") == 1)


def test_our_own_mistake_ends_with_1_and_says_how_to_see_more(world: World, monkeypatch, capsys):
    def fail(*_, **__):
        raise ZeroDivisionError("division by zero")

    monkeypatch.setattr("delora_sd.training.recipe.make_plan", fail)
    assert main(world.train()) == 1
    errors = capsys.readouterr().err
    assert errors == "delora-sd: unexpected ZeroDivisionError: division by zero (--debug shows where)\n"
