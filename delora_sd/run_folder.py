"""Every file name in a run folder, and how it is written: the contract between the stages.

A file is written whole or not at all: a temporary file in the same folder, flushed to disk, then renamed.
This module knows names and bytes, never tensors or models.
"""

import contextlib
import fcntl
import json
import os
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError

FORMAT_VERSION = 1
"""Layout of a run folder. A folder of another version is refused, never guessed at."""

_TEMPORARY = ".partial-"
"""Prefix of what is being written; whatever still bears it after a crash may be deleted."""


def write_file(path: Path, write: Callable[[Path], None]) -> None:
    """Writes one file whole or not at all; `write` fills the temporary path it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{os.getpid()}-{path.name}")
    try:
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    finally:
        temporary.unlink(missing_ok=True)
    _flush(path.parent)


def write_bytes(path: Path, content: bytes) -> None:
    write_file(path, lambda temporary: temporary.write_bytes(content))


def write_text(path: Path, text: str) -> None:
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Returns the parsed file. Raises UserError when it is missing or not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not valid JSON ({error}); delete it and run the command again") from error


def write_folder(path: Path, write: Callable[[Path], None]) -> None:
    """Writes one folder whole or not at all; `write` fills the temporary folder it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{_TEMPORARY}{path.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir()
        write(temporary)
        for file in temporary.rglob("*"):
            _flush(file)
        if path.exists():
            shutil.rmtree(path)
        os.replace(temporary, path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}; nothing was changed") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    _flush(path.parent)


def append_line(path: Path, record: dict[str, Any]) -> None:
    """Appends one JSON line in a single write; a line torn by a crash is ignored by `read_lines`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    line = json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n"
    try:
        with path.open("ab") as file:
            file.write(line.encode("utf-8"))
    except OSError as error:
        raise UserError(f"cannot append to {path}: {error.strerror or error}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Returns the JSON lines of a file, [] when it does not exist; a torn last line is dropped."""
    if not path.exists():
        return []
    records = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            records.append(json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError) as error:
            if number == len(lines):
                break
            raise UserError(f"{path}, line {number}: not valid JSON ({error})") from error
    return records


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    """Replaces a JSON-lines file, whole or not at all."""
    write_text(path, "".join(json.dumps(record, sort_keys=True, ensure_ascii=False) + "\n" for record in records))


def _flush(path: Path) -> None:
    """Makes a rename durable: the bytes, and the folder entry, reach the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True)
class RunFolder:
    """The files of one run. Paths only; nothing is created before it is written."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings; this file alone reproduces the run."""
        return self.path / "config.yaml"

    @property
    def manifest(self) -> Path:
        """Versions, device, seeds, hashes of base model and photos, and the folder's format version."""
        return self.path / "manifest.json"

    @property
    def events(self) -> Path:
        """One JSON line per logged step."""
        return self.path / "events.jsonl"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT's layout."""
        return self.path / "adapter"

    @property
    def export(self) -> Path:
        """Plain LoRA files for other tools."""
        return self.path / "export"

    @property
    def images(self) -> Path:
        """One folder per image set: `images/<set>/NN-slug-sSEED.png` + `images.jsonl`."""
        return self.path / "images"

    @property
    def previews(self) -> Path:
        return self.path / "previews"

    @property
    def scores(self) -> Path:
        return self.path / "scores.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoint_steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, ascending."""
        return sorted(int(folder.name.removeprefix("step-")) for folder in self.path.glob("checkpoints/step-*"))

    def is_finished(self) -> bool:
        """True when training has written its final adapter."""
        return (self.adapter / "adapter_config.json").exists()

    def check_version(self) -> None:
        """Raises UserError when the folder was written by another version of the layout."""
        if not self.manifest.exists():
            return
        found = read_json(self.manifest).get("format")
        if found != FORMAT_VERSION:
            raise UserError(
                f"{self.path} is a run folder of format {found}, this version reads format {FORMAT_VERSION}; "
                "use another output_dir"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; a second process is told who holds it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = (self.path / ".lock").open("a+")
        except OSError as error:
            raise UserError(f"output_dir {self.path}: {error.strerror or error}") from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                holder = file.read().strip() or "another process"
                raise UserError(f"{self.path} is in use by {holder}; wait for it or use another output_dir") from None
            file.truncate(0)
            file.write(f"process {os.getpid()} on {socket.gethostname()}")
            file.flush()
            yield
