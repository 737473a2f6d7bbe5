"""What is done to a scene: each function sets it up, disturbs it once, and says what went wrong, None when nothing did.

A disturbance that came too late (the command had ended) raises TooLate.
"""

import math
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from crash_attempts import LONGEST_S, Ending, Fault, Signal, follow, start
from crash_scenes import PAGE_BYTES, TRACES, Scene, count_pages, read_comparable
from crash_theatre import Reference, Theatre

NOBODY = 65534
"""The user without rights: root writes into read-only folders."""

LONGEST_STOP_S = 10.0
_SPACE_IS_FREED = "512m"


class TooLate(Exception):
    """The command had ended before it could be disturbed."""


def kill(theatre: Theatre, scene: Scene, reference: Reference) -> str | None:
    """SIGKILL at a random moment."""
    how = Signal(after_s=theatre.random.uniform(0.0, reference.ending.seconds), number=signal.SIGKILL)
    scene.set_up()
    if theatre.run(scene, how).code >= 0:
        raise TooLate
    wrong = theatre.differences_after_restart(scene, reference)
    return f"killed after {how.after_s:.3f} s: {wrong}" if wrong else None


def fault(theatre: Theatre, scene: Scene, reference: Reference, how: Fault) -> str | None:
    """The process dies, or the disk is full, from a write boundary on."""
    scene.set_up()
    ending = theatre.run(scene, how)
    wrong = None
    if how.failure == "crash" and ending.code != -signal.SIGKILL:
        wrong = f"exit code {ending.code}, although it should have crashed"
    if how.failure == "full" and not (_is_refusal(ending, "space", "disk") or (ending.code == 0 and not ending.said)):
        wrong = f"exit code {ending.code}, having said {ending.said or ending.output[-300:]}"
    wrong = wrong or theatre.differences_after_restart(scene, reference)
    return f"{how.failure} at boundary {how.at} ({reference.ending.boundaries[how.at - 1]}): {wrong}" if wrong else None


def stop(theatre: Theatre, scene: Scene, reference: Reference) -> str | None:
    """SIGTERM or Ctrl-C at a random moment: ends soon, in one line, and with the exit code that says so."""
    number = theatre.random.choice((signal.SIGTERM, signal.SIGINT))
    how = Signal(after_s=theatre.random.uniform(0.02, reference.ending.seconds), number=number)
    scene.set_up()
    ending = theatre.run(scene, how)
    has_ended = ending.code == -number and theatre.differences(reference) is None  # only Python was still leaving
    if ending.code == 0 or has_ended:
        raise TooLate
    wrong = None
    if (ending.code, len(ending.said)) != (128 + number, 1) or "Traceback" in ending.output:
        wrong = f"exit code {ending.code}, having said {ending.output[-300:]}"
    elif "run the same command again" not in ending.said[0]:
        wrong = f"it does not say how to go on: {ending.said[0]}"
    elif ending.seconds - how.after_s > LONGEST_STOP_S:
        wrong = f"it took {ending.seconds - how.after_s:.0f} s to stop"
    wrong = wrong or theatre.differences_after_restart(scene, reference)
    return f"{number.name} after {how.after_s:.3f} s: {wrong}" if wrong else None


def rival(theatre: Theatre, scene: Scene, reference: Reference) -> str | None:
    """The same command while the first is at work: it is told who that is, and disturbs nothing."""
    scene.set_up()
    first = start(scene.arguments, theatre.stage, theatre.logs / "first")
    _wait_until_it_holds(first, theatre.stage)
    os.kill(first, signal.SIGSTOP)
    second = theatre.run(scene)
    os.kill(first, signal.SIGCONT)
    ending = follow(first, theatre.logs / "first")
    is_told = f"process {first} on" in second.output and "Traceback" not in second.output
    expected = 0 if scene.name == "benchmark" else 2  # the processes of a benchmark share its cells
    if (second.code, ending.code, is_told) != (expected, 0, True):
        return f"second process: exit codes {ending.code} and {second.code}; it was told: {second.output[-300:]}"
    wrong = theatre.differences(reference)
    return f"second process: {wrong}" if wrong else None


def read_only(theatre: Theatre, scene: Scene, reference: Reference) -> str | None:
    """A folder that may not be written: one line, nothing changed."""
    scene.set_up()
    before = read_comparable(theatre.stage)
    with _write_protected(theatre.stage):
        ending = theatre.run(scene, user=NOBODY if os.getuid() == 0 else None)
    if not _is_refusal(ending, "denied", "read-only", "not permitted"):
        return f"read-only folder: exit code {ending.code}, having said {ending.output[-300:]}"
    if read_comparable(theatre.stage) != before:
        return "read-only folder: something was written"
    wrong = theatre.differences_after_restart(scene, reference)
    return f"read-only folder: {wrong}" if wrong else None


def small_disk(theatre: Theatre, scene: Scene, reference: Reference) -> str | None:
    """A real file system too small for what the command makes; then space is freed."""
    scene.set_up()
    at_start = count_pages(theatre.stage)
    num_pages = at_start + math.ceil(theatre.random.uniform(0.1, 0.9) * (reference.num_pages - at_start))
    with _tmpfs(theatre.stage, size_bytes=num_pages * PAGE_BYTES):
        scene.fill()
        ending = theatre.run(scene)
        if not _is_refusal(ending, "space", "disk"):
            return f"disk of {num_pages} pages: exit code {ending.code}, having said {ending.output[-300:]}"
        _run("mount", "-o", f"remount,size={_SPACE_IS_FREED}", str(theatre.stage))
        wrong = theatre.differences_after_restart(scene, reference)
    return f"disk of {num_pages} pages: {wrong}" if wrong else None


def can_mount(folder: Path) -> bool:
    """True when this user may mount a small file system."""
    try:
        with _tmpfs(folder, size_bytes=PAGE_BYTES):
            return True
    except (OSError, subprocess.CalledProcessError):
        return False


def _is_refusal(ending: Ending, *reasons: str) -> bool:
    """Exit code 2 and one line that names the reason."""
    is_one_line = ending.code == 2 and len(ending.said) == 1 and "Traceback" not in ending.output
    return is_one_line and any(reason in ending.said[0].lower() for reason in reasons)


def _wait_until_it_holds(process: int, stage: Path) -> None:
    """Returns as soon as a lock file below the stage names the process."""
    deadline = time.monotonic() + LONGEST_S
    while time.monotonic() < deadline:
        locks = [path for path in stage.rglob(".*") if path.name in TRACES]
        if any(path.read_text().startswith(f"process {process} ") for path in locks):
            return
        time.sleep(0.001)
    raise SystemExit(f"process {process} never held a lock")


@contextmanager
def _write_protected(folder: Path) -> Iterator[None]:
    paths = [folder, *folder.rglob("*")]
    modes = {path: path.stat().st_mode for path in paths}
    for path, mode in modes.items():
        path.chmod(mode & ~0o222 | 0o444 | (0o111 if path.is_dir() else 0))
    try:
        yield
    finally:
        for path, mode in modes.items():
            path.chmod(mode)


@contextmanager
def _tmpfs(folder: Path, *, size_bytes: int) -> Iterator[None]:
    _run("mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "none", str(folder))
    try:
        yield
    finally:
        _run("umount", str(folder))


def _run(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)
