"""Whole or not at all: every write boundary fails once, and nothing half-written is ever seen."""

import errno
import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from delora_sd.errors import UserError
from delora_sd.files import run_folder
from delora_sd.files.leftovers import remove_leftovers
from delora_sd.files.run_folder import RunFolder


def contents(folder: Path) -> dict[str, str]:
    """Returns {path: text} of all files below `folder`, hidden ones too."""
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*")) if path.is_file()}


def fill(text: str) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        (folder / "sub").mkdir()
        (folder / "sub" / "b.txt").write_text(text)
        run_folder.write_text(folder / "a.txt", text)

    return write


WRITERS = {
    "file": lambda path, text: run_folder.write_text(path / "file.txt", text),
    "json": lambda path, text: run_folder.write_json(path / "file.json", {"text": text}),
    "lines": lambda path, text: run_folder.write_lines(path / "lines.jsonl", [{"text": text}] * 3),
    "folder": lambda path, text: run_folder.write_folder(path / "folder", fill(text)),
}


def fail_at(monkeypatch: pytest.MonkeyPatch, name: str, turn: int) -> list[int]:
    """Makes the `turn`-th call of os.NAME fail as a full disk does; returns the list of calls so far."""
    genuine, calls = getattr(os, name), []

    def failing(*arguments, **keywords):
        calls.append(1)
        if len(calls) == turn:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return genuine(*arguments, **keywords)

    monkeypatch.setattr(os, name, failing)
    return calls


@pytest.mark.parametrize("has_old", [False, True], ids=["new", "replacing"])
@pytest.mark.parametrize("boundary", ["fsync", "replace", "open"])
@pytest.mark.parametrize("kind", WRITERS)
def test_a_failure_at_any_boundary_leaves_the_old_or_the_new_content(kind, boundary, has_old, tmp_path, monkeypatch):
    write = WRITERS[kind]
    write(tmp_path / "reference", "new")
    new = contents(tmp_path / "reference")
    old = {}
    if has_old:
        write(tmp_path / "run", "old")
        old = contents(tmp_path / "run")
    for turn in range(1, 30):
        with monkeypatch.context() as patch:
            calls = fail_at(patch, boundary, turn)
            try:
                write(tmp_path / "run", "new")
            except UserError as error:
                assert "No space left on device" in str(error) and str(tmp_path / "run") in str(error)
        if boundary == "open":  # clearing away opens folders too; what stays is cleared by the next writer
            remove_leftovers(tmp_path / "run")
        assert contents(tmp_path / "run") in (old, new)
        if len(calls) < turn:
            break
    else:
        pytest.fail("the writer never got through")
    assert turn > 1 and contents(tmp_path / "run") == new


@pytest.mark.parametrize("kind", ["write_file", "write_folder"])
@pytest.mark.parametrize(
    "failure",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        OSError(errno.EROFS, "Read-only file system"),
        Exception("I/O error: No space left on device (os error 28)"),
        UserError("inner"),
    ],
)
def test_a_callback_that_fails_half_way_leaves_nothing(kind, failure, tmp_path):
    def write(path: Path) -> None:
        (path / "half" if path.is_dir() else path).write_text("half")
        raise failure

    with pytest.raises(UserError):
        getattr(run_folder, kind)(tmp_path / "target", write)
    assert contents(tmp_path) == {}


def test_our_own_mistakes_in_a_callback_stay_our_own(tmp_path):
    def write(path: Path) -> None:
        path.write_text("half")
        raise KeyError("bug")

    with pytest.raises(KeyError):
        run_folder.write_file(tmp_path / "target", write)
    assert contents(tmp_path) == {}


def test_libraries_that_hide_a_full_disk_are_seen_through(tmp_path, monkeypatch):
    def write(path: Path) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file")

    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 0}))
    with pytest.raises(UserError, match="no space left"):
        run_folder.write_file(tmp_path / "target", write)


def test_write_folder_replaces_the_whole_folder(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "stale.txt").write_text("stale")
    run_folder.write_folder(tmp_path / "folder", fill("new"))
    assert contents(tmp_path) == {"folder/a.txt": "new", "folder/sub/b.txt": "new"}


def test_a_path_through_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    for write in WRITERS.values():
        with pytest.raises(UserError, match=r"cannot write .*: .*file is not a folder"):
            write(tmp_path / "file", "new")
    with pytest.raises(UserError, match="cannot append"):
        run_folder.append_line(tmp_path / "file" / "events.jsonl", {})


def test_the_temporary_name_keeps_the_ending_and_fits_long_names(tmp_path):
    seen = []
    name = "x" * 240 + ".png"
    run_folder.write_file(tmp_path / name, lambda path: (seen.append(path.suffix), path.write_text("x")))
    assert seen == [".png"] and contents(tmp_path) == {name: "x"}


def test_a_torn_last_line_is_ignored_when_read_and_cut_off_when_appended(tmp_path):
    file = tmp_path / "events.jsonl"
    run_folder.append_line(file, {"step": 1})
    whole = file.read_bytes()
    for torn in (b'{"st', b'{"step": 2', b"\x00\x00", b"\xff", b"12"):
        file.write_bytes(whole + torn)
        assert run_folder.read_lines(file) == [{"step": 1}]
        run_folder.append_line(file, {"step": 3})
        assert run_folder.read_lines(file) == [{"step": 1}, {"step": 3}]


def test_a_last_line_without_its_newline_is_kept(tmp_path):
    file = tmp_path / "events.jsonl"
    file.write_text('{"step": 1}')
    run_folder.append_line(file, {"step": 2})
    assert run_folder.read_lines(file) == [{"step": 1}, {"step": 2}]


def test_a_damaged_line_in_the_middle_is_named(tmp_path):
    file = tmp_path / "events.jsonl"
    for damage in ("{", "[1]", "3", "[" * 100_000):
        file.write_text('{"step": 1}\n' + damage + '\n{"step": 3}\n')
        with pytest.raises(UserError, match=r"events\.jsonl, line 2: not a JSON object"):
            run_folder.read_lines(file)


def test_an_append_on_a_full_disk_leaves_only_whole_lines():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("NO /dev/full on this system")
    with pytest.raises(UserError, match="No space left on device"):
        run_folder.append_line(full, {"step": 1})


def test_a_short_append_is_taken_back(tmp_path, monkeypatch):
    file = tmp_path / "events.jsonl"
    run_folder.append_line(file, {"step": 1})
    genuine = Path.open

    class Short:
        """A file on a disk that takes five more bytes."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

        def write(self, line):
            return self.file.write(line[:5])

    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda path, *a, **k: Short(genuine(path, *a, **k)))
        with pytest.raises(UserError, match="No space left"):
            run_folder.append_line(file, {"step": 2})
    assert file.read_text() == '{"step": 1}\n'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=50, deadline=None)
@given(records=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=3), max_size=4))
def test_lines_round_trip(records, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lines")
    run_folder.write_lines(folder / "all.jsonl", records)
    for record in records:
        run_folder.append_line(folder / "one.jsonl", record)
    assert run_folder.read_lines(folder / "all.jsonl") == run_folder.read_lines(folder / "one.jsonl") == records


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=80) | st.text('{}[]":,\n 0ae', max_size=40).map(str.encode))
def test_any_bytes_are_records_or_one_clear_line(content, tmp_path_factory):
    file = tmp_path_factory.getbasetemp() / "fuzz.jsonl"
    file.write_bytes(content)
    try:
        records = run_folder.read_lines(file)
    except UserError as error:
        assert "fuzz.jsonl, line" in str(error)
    else:
        assert all(isinstance(record, dict) for record in records)


def test_read_json_says_what_is_wrong(tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        run_folder.read_json(tmp_path / "none.json")
    for bad in ("{", "", "[" * 100_000, "9" * 5000):
        (tmp_path / "bad.json").write_text(bad)
        with pytest.raises(UserError, match=r"bad\.json is not valid JSON"):
            run_folder.read_json(tmp_path / "bad.json")
    with pytest.raises(UserError, match="cannot be read"):
        run_folder.read_json(tmp_path)


def test_names_that_are_no_text_survive(tmp_path):
    name = os.fsdecode(b"caf\xe9.png")
    run_folder.write_json(tmp_path / "manifest.json", {"file": name})
    assert run_folder.read_json(tmp_path / "manifest.json") == {"file": name}


HOLDER = """
import sys, time
from pathlib import Path
from delora_sd.files.run_folder import RunFolder
with RunFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_second_process_is_told_who_holds_the_folder(tmp_path):
    run = RunFolder(tmp_path / "run")
    with subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"in use by process {holder.pid} on {socket.gethostname()}"), run.lock():
            pass
        holder.kill()
        holder.wait()
    with run.lock():
        assert str(os.getpid()) in (run.path / ".lock").read_text()
    with run.lock():
        pass


@pytest.mark.parametrize("kind", WRITERS)
def test_whoever_writes_again_clears_what_a_crash_left_of_the_same_target(kind, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    WRITERS[kind](tmp_path, "new")
    whole = contents(tmp_path)
    (name,) = {Path(path).parts[0] for path in whole}
    left = [f".partial-{socket.gethostname()}~{dead.pid}~{target}" for target in (name, f"old-{name}")]
    other = f".partial-{socket.gethostname()}~{dead.pid}~other-{name}"
    for path in (*left, other):
        (tmp_path / path).write_text("half")
    WRITERS[kind](tmp_path, "new")
    assert contents(tmp_path) == whole | {other: "half"}


def test_a_folder_in_which_nothing_was_made_vanishes_and_any_other_stays(tmp_path):
    run = RunFolder(tmp_path / "a" / "b")
    with pytest.raises(UserError, match="the model is broken"), run.lock():
        raise UserError("the model is broken")
    assert list(tmp_path.iterdir()) == []
    run.path.mkdir(parents=True)
    with run.lock():
        pass
    assert list(contents(run.path)) == [".lock"]


def test_a_lock_taken_away_by_its_last_holder_is_not_held(tmp_path, monkeypatch):
    """The second process opened the file before the first took it away, and holds it after: a lock on nothing."""
    run, flock, calls = RunFolder(tmp_path / "run"), fcntl.flock, []

    def take_away_first(file, how):
        if not calls:
            (run.path / ".lock").unlink()
        calls.append(how)
        flock(file, how)

    monkeypatch.setattr("fcntl.flock", take_away_first)
    with run.lock():
        assert len(calls) == 2 and (run.path / ".lock").read_text().startswith("process")


def test_whoever_takes_the_lock_clears_what_a_crash_left(tmp_path):
    run = RunFolder(tmp_path / "run")
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = socket.gethostname()
    gone = [f".partial-{host}~{dead.pid}~a.json", f"checkpoints/.partial-{host}~{dead.pid}~step-000001/x.bin"]
    kept = ["adapter/a.json", f".partial-{host}~{os.getppid()}~b.json", ".partial-elsewhere~1~c.json"]
    for name in gone + kept:
        run_folder.write_text(run.path / name, "x")
    with run.lock():
        assert sorted(contents(run.path)) == sorted([*kept, ".lock"])
    long_ago = time.time() - 7200
    os.utime(run.path / kept[2], (long_ago, long_ago))
    remove_leftovers(run.path)
    assert sorted(contents(run.path)) == sorted([*kept[:2], ".lock"])


def test_output_dir_that_is_a_file_is_one_line(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match=r"output_dir .*file: "), RunFolder(tmp_path / "file").lock():
        pass


@pytest.mark.parametrize("manifest", ['{"format": 99}', "{}", "[]", "null"])
def test_a_folder_of_another_version_is_refused(manifest, tmp_path):
    run = RunFolder(tmp_path)
    run.check_version()
    run.manifest.write_text(json.dumps({"format": run_folder.FORMAT_VERSION}))
    run.check_version()
    run.manifest.write_text(manifest)
    with pytest.raises(UserError, match=f"this version reads format {run_folder.FORMAT_VERSION}"):
        run.check_version()


def test_only_complete_checkpoints_count(tmp_path):
    run = RunFolder(tmp_path)
    assert run.checkpoint_steps() == []
    for step in (200, 20, 1_000_000):
        run.checkpoint(step).mkdir(parents=True)
    (tmp_path / "checkpoints" / ".partial-host~1~step-000300").mkdir()
    (tmp_path / "checkpoints" / "step-best").mkdir()
    (tmp_path / "checkpoints" / "step-000400").write_text("a file")
    assert run.checkpoint_steps() == [20, 200, 1_000_000]
