"""What a file is known by wherever it lies: the hash of its bytes."""

import hashlib
from functools import cache
from pathlib import Path


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def hash_file_once(path: Path) -> str:
    """Returns the SHA-256 of the file; while its time and size stay, a process reads it once, however many ask."""
    status = path.stat()
    return _hash_state(path, status.st_mtime_ns, status.st_size)


@cache
def _hash_state(path: Path, _modified: int, _size: int) -> str:
    return hash_file(path)
