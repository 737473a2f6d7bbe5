"""What a user types and gets back: exit codes, one line on stderr, no traceback unless asked for."""

import errno
import os
import signal
import subprocess
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytest

from delora_sd import __version__
from delora_sd.cli import main as cli
from delora_sd.cli.command import Command
from delora_sd.cli.main import main
from delora_sd.errors import UserError
from delora_sd.signals import Stopped


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    run: str = ""
    output: str = ""
    number: int = 0


def toy(run) -> dict[str, Command]:
    return {
        "toy": Command(
            summary="A toy.", config=ToyConfig, run=run, positional=("run", "output"), example="delora-sd toy x"
        )
    }


@pytest.fixture
def calls(monkeypatch) -> list[ToyConfig]:
    """Replaces the commands by one toy; returns the configs it was called with."""
    received = []
    monkeypatch.setattr(cli, "load_commands", lambda: toy(received.append))
    return received


def fail_with(monkeypatch, error: BaseException) -> None:
    def run(_):
        raise error

    monkeypatch.setattr(cli, "load_commands", lambda: toy(run))


def test_words_without_a_key_fill_the_positional_settings(calls, tmp_path):
    file = tmp_path / "a.yaml"
    file.write_text("number: 1\noutput: file\n")
    assert main(["toy", "runs/lr=1e-3/x", str(file), "number=2"]) == 0
    assert main(["toy", "a", "b"]) == 0
    assert main(["toy", "a", "run=c"]) == 0
    assert calls == [
        ToyConfig(run="runs/lr=1e-3/x", output="file", number=2),
        ToyConfig(run="a", output="b"),
        ToyConfig(run="c"),
    ]


def test_a_dry_run_prints_and_does_nothing(calls, capsys):
    assert main(["toy", "a", "--dry-run"]) == 0
    assert calls == [] and capsys.readouterr().out == "run: a\noutput: ''\nnumber: 0\n"


def test_a_command_may_have_its_own_dry_run(monkeypatch, capsys):
    command = Command(
        summary="", config=ToyConfig, run=pytest.fail, example="", dry_run=lambda config: print("plan", config.number)
    )
    monkeypatch.setattr(cli, "load_commands", lambda: {"toy": command})
    assert main(["toy", "number=3", "--dry-run"]) == 0
    assert capsys.readouterr().out == "plan 3\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["tyo"], "unknown command 'tyo'; did you mean 'toy'?"),
        (["qqqq"], "unknown command 'qqqq'; known: toy"),
        (["toy", "nmber=3"], "unknown setting 'nmber'; did you mean 'number'?"),
        (["toy", "number=x"], "number: expected a whole number, found 'x'"),
        (["toy", "a", "b", "c"], "'c' is not understood; accepted without a key: run, output"),
        (["toy", "--number=3"], "unknown flag '--number=3'"),
        (["toy", "--dryrun"], "unknown flag '--dryrun'; did you mean '--dry-run'?"),
        (["--hlep"], "unknown flag '--hlep'; did you mean '--help'?"),
        (["toy", "nowhere.yaml"], "settings file nowhere.yaml does not exist"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(arguments, expected, calls, capsys):
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and calls == []
    assert printed.err.startswith("delora-sd: ") and printed.err.count("\n") == 1 and expected in printed.err


@pytest.mark.parametrize(
    ("error", "code", "expected"),
    [
        (UserError("class_word: missing"), 2, "delora-sd: class_word: missing\n"),
        (UserError("two\nlines"), 2, "delora-sd: two lines\n"),
        (OSError(errno.ENOSPC, "No space left on device", "a.png"), 2, "delora-sd: a.png: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), 2, "delora-sd: /x: Permission denied\n"),
        (MemoryError("8 GiB"), 2, "out of memory"),
        (KeyError("bug"), 1, "unexpected KeyError: 'bug' (--debug shows where)"),
        (FileNotFoundError(errno.ENOENT, "No such file", "b"), 1, "unexpected FileNotFoundError"),
        (Stopped(signal.SIGINT), 130, "delora-sd: stopped; run the same command again to go on\n"),
        (Stopped(signal.SIGTERM, "runs/dog, step 3"), 143, "delora-sd: runs/dog, step 3: stopped; run the same"),
    ],
)
def test_exit_codes(error, code, expected, monkeypatch, capsys):
    fail_with(monkeypatch, error)
    assert main(["toy"]) == code
    printed = capsys.readouterr().err
    assert expected in printed and printed.count("\n") == 1 and "Traceback" not in printed


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_any_command_in_one_line(number, code, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_commands", lambda: toy(lambda _: os.kill(os.getpid(), number)))
    assert main(["toy"]) == code
    assert capsys.readouterr().err == "delora-sd: stopped; run the same command again to go on\n"


def test_a_signal_that_a_library_turns_into_an_error_is_still_a_stop(monkeypatch, capsys):
    def load(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise ValueError("cannot load the file") from None

    monkeypatch.setattr(cli, "load_commands", lambda: toy(load))
    assert main(["toy"]) == 143
    assert "cannot load" not in capsys.readouterr().err
    fail_with(monkeypatch, UserError("x"))
    assert main(["toy"]) == 2  # the next command knows nothing of it


@pytest.mark.parametrize(("error", "code"), [(UserError("x"), 2), (KeyError("x"), 1)])
def test_debug_shows_the_traceback_and_keeps_the_exit_code(error, code, monkeypatch, capsys):
    fail_with(monkeypatch, error)
    assert main(["toy", "--debug"]) == code
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_warning_is_one_line_too(monkeypatch, capsys):
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(cli, "load_commands", lambda: toy(warn_from("delora_sd.data", "small\nphoto")))
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert main(["toy"]) == 0
    assert capsys.readouterr().err == "delora-sd: warning: small photo\n"


def test_the_overview_lists_every_command(capsys):
    for arguments in ([], ["--help"], ["-h"]):
        assert main(arguments) == 0
        printed = capsys.readouterr().out
        assert all(f"  {name}" in printed for name in cli.load_commands())
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"delora_sd {__version__}\n"


def test_the_installed_commands_are_the_makers_and_the_judges():
    assert {"train", "generate", "export", "score", "report", "doctor"} <= set(cli.load_commands())


def test_without_installation_it_says_how_to_install(monkeypatch, capsys):
    monkeypatch.setattr(cli, "entry_points", lambda group: ())
    assert main(["train"]) == 2
    assert "pip install -e ." in capsys.readouterr().err


def test_a_reader_that_goes_away_is_no_error():
    """As in `delora-sd generate --help | head -1`."""
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "delora_sd.cli", "generate", "--help"]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, timeout=60)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


def test_the_training_door_is_the_train_command(tmp_path):
    door = Path(__file__).parents[2] / "train_dreambooth_delora.py"
    command = [sys.executable, str(door), "seed=4", "adapter.rank=none"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=tmp_path)
    assert done.returncode == 2 and done.stdout == "" and list(tmp_path.iterdir()) == []
    assert done.stderr == "delora-sd: 'adapter.rank=none': adapter.rank: expected a whole number, found 'none'\n"


def warn_from(package: str, text: str = "beware"):
    """A command during which a module of the package warns."""
    module: dict = {"__name__": package, "text": text}
    exec("import warnings\ndef run(_):\n    warnings.warn(text, stacklevel=1)", module)
    return module["run"]


@pytest.mark.parametrize(
    ("package", "flags", "is_shown"),
    [
        ("delora_sd.data.photos", [], True),
        ("delora_eval.scoring", [], True),
        ("torchao.kernel", [], False),
        ("diffusers.models", [], False),
        ("torchao.kernel", ["--debug"], True),
    ],
)
def test_warnings_of_other_packages_are_only_shown_to_who_debugs(package, flags, is_shown, monkeypatch, capsys):
    monkeypatch.setattr(cli, "load_commands", lambda: toy(warn_from(package)))
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["toy", *flags]) == 0
    assert ("warning: beware" in capsys.readouterr().err) == is_shown
