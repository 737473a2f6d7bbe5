"""What a file is known by wherever it lies, the hash of its bytes; and a run's manifest against what lies there now."""

import hashlib
from functools import cache
from pathlib import Path

from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder


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


def absolute_place(path: str) -> str:
    """Returns a path that means the same from any folder. Links are left as the user named them."""
    return str(Path(path).expanduser().absolute())


def check_base(run: RunFolder, *, name: str, fingerprint: str, advice: str) -> None:
    """Raises UserError when the run was trained on a base with other contents; a run that knows no hash takes any."""
    recorded = run.read_manifest().get("base", {})
    known = recorded.get("fingerprint")
    if known and known != fingerprint:
        raise UserError(
            f"model.base={name} is not what {run.path} was trained on ({recorded.get('id', name)}): "
            f"its files have the SHA-256 {fingerprint[:12]}, the run's had {known[:12]}; {advice}"
        )
