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

_NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS, errno.EINVAL)


@contextlib.contextmanager
def hold(lock: Path, *, guarding: Path, setting: str) -> Iterator[None]:
    """Holds the lock file for this process.

    Args:
        guarding: What nobody else may write meanwhile.
        setting: Of the command: another value leads elsewhere.

    Raises:
        UserError: another process holds it (which one), or the file cannot be made.
    """
    try:
        lock.parent.mkdir(parents=True, exist_ok=True)
        file = lock.open("a+b", buffering=0)
    except OSError as error:
        raise DiskError(f"{setting} {guarding}: {error.strerror or error}") from error
    with file:
        _hold(file, guarding, setting)
        _sign(file, guarding, setting)
        try:
            yield
        finally:
            file.truncate(0)


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
        raise UserError(f"{guarding} is in use by {holder}; wait for it or use another {setting}") from None
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise UserError(f"{setting} {guarding}: cannot be locked: {error.strerror}") from error
        warnings.warn(f"{guarding}: this disk has no locks; run only one process in it", stacklevel=4)
