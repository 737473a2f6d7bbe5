"""Write boundaries of a process and failures at them, injected from outside: the product knows nothing of this.

A boundary is a call that changes a file or folder below the watched one: create, write, flush, rename, link, delete.
"""

import builtins
import errno
import io
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Literal

Failure = Literal["crash", "full"]
"""crash: the process dies at the boundary, as by SIGKILL; a write dies half-way. full: from the boundary on the disk
takes nothing more (ENOSPC), until the process ends."""

NEEDS_SPACE = ("create", "write", "flush", "rename", "link", "mkdir")
"""What a full disk refuses; deleting and cutting off always work."""

_EVENTS = {
    "os.rename": "rename",
    "os.link": "link",
    "os.mkdir": "mkdir",
    "os.remove": "delete",
    "os.rmdir": "delete",
    "os.truncate": "truncate",
}
"""Python's audit events (PEP 578): {event: boundary}."""

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


class Disk:
    """Counts the boundaries below a folder; fails at the `fail_at`-th. Its hooks stay for the life of the process."""

    def __init__(self, folder: Path, *, fail_at: int | None = None, failure: Failure = "crash"):
        self.boundaries: list[str] = []
        """What each boundary was: `create runs/dog/config.yaml`."""
        self._folder = str(folder.resolve())
        self._fail_at, self._failure = fail_at, failure
        self._lock = threading.Lock()

    def install(self) -> None:
        self._fsync, self._open = os.fsync, io.open
        sys.addaudithook(self._audit)
        os.fsync = self._fsync_counted
        io.open = builtins.open = self._open_counted
        if "safetensors.torch" in sys.modules:
            import safetensors.torch

            self._serialize = safetensors.torch.serialize_file
            safetensors.torch.serialize_file = self._serialize_counted  # writes from Rust: no audit event

    def _audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            if isinstance(path, str | os.PathLike) and (flags & _WRITING or (mode and set(mode) & set("wax+"))):
                self._pass("create", os.fspath(path))
        elif event in _EVENTS:
            path = _named(arguments[1] if event in ("os.rename", "os.link") else arguments[0], arguments[-1])
            if not _changes_nothing(_EVENTS[event], path):
                self._pass(_EVENTS[event], path)

    def _fsync_counted(self, descriptor: int) -> None:
        self._pass("flush", _path_of(descriptor))
        self._fsync(descriptor)

    def _open_counted(self, file: Any, mode: str = "r", *arguments: Any, **keywords: Any) -> Any:
        opened = self._open(file, mode, *arguments, **keywords)
        is_watched = set(mode) & set("wax+") and isinstance(file, str | os.PathLike)
        return _Writer(opened, self, os.fspath(file)) if is_watched and self._is_below(os.fspath(file)) else opened

    def _serialize_counted(self, tensors: Any, path: Any, *arguments: Any, **keywords: Any) -> None:
        self._serialize(tensors, path, *arguments, **keywords)
        if self.is_failing("write", str(path)):
            os.truncate(path, os.path.getsize(path) // 2)
            self.fail(str(path))

    def _is_below(self, path: str) -> bool:
        path = os.path.abspath(path)
        return path == self._folder or path.startswith(self._folder + os.sep)

    def _pass(self, kind: str, path: str) -> None:
        if self.is_failing(kind, path):
            self.fail(path)

    def is_failing(self, kind: str, path: str) -> bool:
        """Counts the boundary; True when it has to fail."""
        if not self._is_below(path):
            return False
        with self._lock:
            self.boundaries.append(f"{kind} {os.path.relpath(path, self._folder)}")
            count = len(self.boundaries)
        if self._fail_at is None:
            return False
        if self._failure == "crash":
            return count == self._fail_at
        return count >= self._fail_at and kind in NEEDS_SPACE

    def fail(self, path: str) -> None:
        if self._failure == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)


class _Writer:
    """An open file whose first write is a boundary: one that fails has written half."""

    def __init__(self, file: Any, disk: Disk, path: str):
        self._file, self._disk, self._path = file, disk, path
        self._is_written = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "_Writer":
        return self

    def __exit__(self, *_: Any) -> None:
        self._file.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def write(self, content: Any) -> int:
        is_first, self._is_written = not self._is_written, True
        if not (is_first and self._disk.is_failing("write", self._path)):
            return self._file.write(content)
        written = self._file.write(content[: len(content) // 2])
        self._file.flush()
        if isinstance(self._file, io.RawIOBase) and written and self._disk._failure == "full":
            return written  # the system's own way to say so
        return self._disk.fail(self._path)


def _changes_nothing(kind: str, path: str) -> bool:
    """Making a folder that is there, deleting a file that is not: the product does both to be sure."""
    return (kind == "mkdir" and os.path.isdir(path)) or (kind == "delete" and not os.path.lexists(path))


def _named(path: Any, folder_descriptor: Any) -> str:
    """Returns the path of an audit event; names inside a folder come with the folder's descriptor."""
    if isinstance(path, int):
        return _path_of(path)
    path = os.fspath(path)
    inside = isinstance(folder_descriptor, int) and folder_descriptor >= 0 and not os.path.isabs(path)
    return os.path.join(_path_of(folder_descriptor), path) if inside else path


def _path_of(descriptor: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{descriptor}")
    except OSError:
        return ""
