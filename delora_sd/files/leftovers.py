"""Names of what is being written, and the removal of what a crash left half-written."""

import contextlib
import glob
import os
import re
import shutil
import socket
import time
from pathlib import Path

_TEMPORARY = ".partial-"
"""Prefix of what is being written: `.partial-HOST~PROCESS~NAME`. After a crash `remove_leftovers` deletes it."""

_ABANDONED_SECONDS = 3600
"""A leftover of another machine, whose processes we cannot see, is dead when it is this old."""


def remove_leftovers(folder: Path) -> None:
    """Deletes what dead processes left half-written anywhere below `folder`."""
    for item in sorted(folder.rglob(f"{_TEMPORARY}*")):
        if _is_abandoned(item):
            remove(item)


def remove_leftovers_of(path: Path) -> None:
    """Deletes what a crash left of an earlier try to write `path`: in places where nobody holds a lock."""
    for target in (path, old_name(path)):
        for item in path.parent.glob(f"{_TEMPORARY}*~{glob.escape(_end_of_name(target))}"):
            if _is_abandoned(item):
                remove(item)


def temporary_name(path: Path) -> Path:
    """A name of this process beside `path`, with the same ending: some writers choose the format by it."""
    return path.with_name(f"{_TEMPORARY}{socket.gethostname()}~{os.getpid()}~{_end_of_name(path)}")


def _end_of_name(path: Path) -> str:
    """At most 80 bytes, so that the whole name fits in every script."""
    return os.fsencode(path.name)[-80:].decode("utf-8", "ignore")


def old_name(path: Path) -> Path:
    """What is replaced, while it is."""
    is_long = len(os.fsencode(path.name)) > 250
    return path.with_name(f"old-{_end_of_name(path) if is_long else path.name}")


def _is_abandoned(item: Path) -> bool:
    match = re.fullmatch(re.escape(_TEMPORARY) + r"(.*)~(\d+)~.*", item.name)
    if match is None:
        return True
    host, process = match[1], int(match[2])
    if host == socket.gethostname():
        return process == os.getpid() or not is_running(process)
    with contextlib.suppress(FileNotFoundError):
        return time.time() - item.stat().st_mtime > _ABANDONED_SECONDS
    return False


def is_running(process: int) -> bool:
    """True while a process of this machine has the id."""
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def remove(path: Path) -> None:
    """Deletes a file or a whole folder; what cannot be deleted stays."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()
