"""Lock files: one process at a time; the second is told who is there. The system frees them when their holder dies."""

import contextlib
import errno
import fcntl
import os
import socket
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from delora_sd.errors import DiskError, UserError


class InUse(UserError):
    """Another process holds the lock."""


_ATTEMPTS = 10
_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def hold(lock: Path, *, guarding: Path, setting: str) -> Iterator[None]:
    """Holds the lock file for this process; folders made for it vanish again when nothing else came into them.

    Args:
        guarding: What nobody else may write meanwhile.
        setting: Of the command: another value leads elsewhere.

    Raises:
        UserError: another process holds it (which one), or the file cannot be made.
    """
    made = [folder for folder in (lock.parent, *lock.parent.parents) if not folder.exists()]
    with _open_held(lock, guarding, setting) as file:
        _sign(file, guarding, setting)
        try:
            yield
        finally:
            file.truncate(0)
            _remove_empty(lock, made)


def holder(lock: Path) -> str | None:
    """Returns who holds the lock now, `process 12 on node3`; None when nobody does. It only looks."""
    try:
        with lock.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return file.read().decode(errors="replace").strip() or "another process"
    except OSError:  # no lock, or a disk without locks
        return None
    return None


def _open_held(lock: Path, guarding: Path, setting: str) -> BinaryIO:
    """Returns the lock file, held; one that its last holder took away meanwhile guards nothing and is made again."""
    for _ in range(_ATTEMPTS):
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            file = lock.open("a+b", buffering=0)
        except OSError as error:
            raise DiskError(f"{setting} {guarding}: {error.strerror or error}") from error
        with contextlib.ExitStack() as undo:
            undo.callback(file.close)
            _hold(file, guarding, setting)
            if os.fstat(file.fileno()).st_nlink:
                undo.pop_all()
                return file
    raise UserError(
        f"{guarding}: its lock {lock.name} keeps vanishing; wait for other processes or use another {setting}"
    )


def _remove_empty(lock: Path, made: list[Path]) -> None:
    """Removes the lock and the folders made for it, innermost first, when the lock is all there is in them."""
    if not made or any(path != lock for path in lock.parent.iterdir()):
        return
    with contextlib.suppress(OSError):
        lock.unlink()
        for folder in made:
            folder.rmdir()


def _sign(file: BinaryIO, guarding: Path, setting: str) -> None:
    """Writes who holds it: nothing depends on it but what the second process is told."""
    try:
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}".encode())
    except OSError as error:
        raise DiskError(f"{setting} {guarding}: {error.strerror or error}") from error


def _hold(file: BinaryIO, guarding: Path, setting: str) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.seek(0)
        holder = file.read().decode(errors="replace").strip() or "another process"
        raise InUse(f"{guarding} is in use by {holder}; wait for it or use another {setting}") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(f"{setting} {guarding}: cannot be locked: {error.strerror}") from error
        warnings.warn(f"{guarding}: this disk has no locks; run only one process in it", stacklevel=4)
