"""How long a name may be: what no file system takes is refused before the work, not after it."""

import os
from pathlib import Path

from delora_sd.errors import UserError

MAX_NAME_BYTES = 255
"""Of one name, on every file system in use; a letter of most scripts needs 2 or 3 bytes, an emoji 4."""
MAX_PATH_BYTES = 4095
RUN_FOLDER_ROOM = 35
"""What is put behind a run folder's name: `NAME-step001400.diffusers.safetensors`."""
_DEEPEST = 300
"""Bytes below a folder: images/SET/NN-SLUG-sSEED.png and the like, with room for what is being written."""


def check_length(path: Path, *, setting: str, room: int = 0) -> None:
    """Raises UserError for a path that cannot be made; `room` is what will be put behind its last name."""
    path = path.absolute()
    for name, extra in [(name, 0) for name in path.parts[:-1]] + [(path.name, room)]:
        num_bytes, most = len(os.fsencode(name)), MAX_NAME_BYTES - extra
        if num_bytes > most:
            shown = name if len(name) <= 40 else f"{name[:40]}..."
            raise UserError(f"{setting}: the name '{shown}' has {num_bytes} bytes; expected at most {most}")
    num_bytes = len(os.fsencode(path))
    if num_bytes > MAX_PATH_BYTES - _DEEPEST:
        most = MAX_PATH_BYTES - _DEEPEST
        raise UserError(f"{setting}: the path has {num_bytes} bytes; expected at most {most}, use a shorter one")
