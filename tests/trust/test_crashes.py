"""The crash test in its short form: the commands, killed and obstructed, end in the same bytes. And it can fail."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from crash_scenes import differing, read_comparable
from crash_theatre import kind_of

SCRIPTS = Path(__file__).parents[2] / "scripts" / "crash"


def run_script(name: str, *arguments: str) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / name), *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=900, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )


def test_disturbed_commands_end_in_the_same_bytes(tmp_path):
    done = run_script("crash_test.py", "--short", "--record", str(tmp_path / "crash.json"))
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert "after every disturbance the same command ended in the same bytes" in done.stdout
    scenes = json.loads((tmp_path / "crash.json").read_text())["scenes"]
    assert set(scenes) == {"train", "generate", "score"}
    for scene in scenes.values():
        optional = ("kills", "small disks")  # few kills for three scenes; mounting may not be permitted
        assert all(count for kind, count in scene["done"].items() if kind not in optional)


FAULTY_WRITES = """
import os, sys
from pathlib import Path
from crash_faults import Disk
stage, at, failure = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
disk = Disk(stage, fail_at=at or None, failure=failure)
disk.install()
from delora_sd.files.run_folder import append_line, write_text
write_text(stage / "whole.txt", "0123456789")
append_line(stage / "lines.jsonl", {"step": 1})
with (stage / "torn.txt").open("w") as file:  # what the product must never do
    file.write("0123456789")
print(*(boundary.split()[0] for boundary in disk.boundaries))
"""


@pytest.fixture
def faulty_writes(tmp_path):
    """Returns a function: (boundary, failure) -> (exit code, output, {file: text}) of a program that writes badly."""

    def run(at: int, failure: str = "crash") -> tuple[int, str, dict[str, str]]:
        stage = tmp_path / f"{failure}-{at}"
        stage.mkdir()
        done = subprocess.run(
            [sys.executable, "-c", FAULTY_WRITES, str(stage), str(at), failure],
            capture_output=True,
            text=True,
            env=os.environ | {"PYTHONPATH": str(SCRIPTS)},
        )
        files = {path.name: path.read_text() for path in stage.iterdir() if not path.name.startswith(".")}
        return done.returncode, done.stdout + done.stderr, files

    return run


WHOLE, LINE = {"whole.txt": "0123456789"}, {"lines.jsonl": '{"step": 1}\n'}


def test_every_write_boundary_is_found_and_a_write_that_fails_is_torn(faulty_writes):
    code, found, files = faulty_writes(0)
    boundaries = found.split()
    assert (code, files) == (0, WHOLE | LINE | {"torn.txt": "0123456789"})
    assert boundaries == ["create", "write", "flush", "rename", "flush", *["create", "write"] * 2]
    assert faulty_writes(2)[2] == faulty_writes(4)[2] == {}  # atomic: nothing until the rename
    assert faulty_writes(5)[2] == WHOLE
    assert faulty_writes(7)[2] == WHOLE | {"lines.jsonl": '{"step'}
    code, _, files = faulty_writes(9)
    assert (code, files["torn.txt"]) == (-9, "01234")


def test_a_full_disk_stays_full_and_leaves_only_whole_files(faulty_writes):
    for at in (1, 2, 3, 4):
        code, said, files = faulty_writes(at, "full")
        assert code == 1 and "No space left on device" in said and files == {}
    assert faulty_writes(7, "full")[2] == WHOLE | {"lines.jsonl": ""}


def write_run(folder: Path, *, seconds: float, loss: float) -> dict[str, str]:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({"seconds": seconds, "git": str(seconds), "seed": 0}))
    (folder / "events.jsonl").write_text(f'{{"images_per_second": {seconds}, "loss": {loss}}}\n')
    (folder / ".lock").write_text(f"process {seconds}")
    return read_comparable(folder)


def test_times_and_traces_are_not_compared_and_everything_else_is(tmp_path):
    reference = write_run(tmp_path / "a", seconds=1.0, loss=0.5)
    assert differing(write_run(tmp_path / "b", seconds=2.0, loss=0.5), reference) == []
    assert differing(write_run(tmp_path / "c", seconds=2.0, loss=0.6), reference) == ["different: events.jsonl"]
    (tmp_path / "a" / ".partial-host~1~manifest.json").write_text("{")
    assert differing(read_comparable(tmp_path / "a"), reference) == ["too much: .partial-host~1~manifest.json"]
    assert differing({}, reference) == ["missing: events.jsonl", "missing: manifest.json"]


def test_a_kind_is_the_write_not_the_cell_the_step_or_the_process():
    first = kind_of(
        "write bench/cells/lora-dog-s0-0123abcd/checkpoints/.partial-vm~7~step-000001/.partial-vm~7~progress.json"
    )
    second = kind_of("write dog/checkpoints/.partial-vm~12~step-000200/.partial-vm~12~progress.json")
    assert first == second == "write RUN/checkpoints/step-N/progress.json"
