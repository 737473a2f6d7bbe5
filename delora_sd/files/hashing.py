"""What a file is known by wherever it lies: the hash of its bytes."""

import hashlib
from pathlib import Path


def hash_file(path: Path) -> str:
    """Returns the SHA-256 of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
