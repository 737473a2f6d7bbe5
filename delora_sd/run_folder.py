"""Every file name in a run folder: the contract between the stages. The writers themselves are in `atomic`."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from delora_sd.atomic import (
    append_line,
    read_json,
    read_lines,
    write_bytes,
    write_file,
    write_folder,
    write_json,
    write_lines,
    write_text,
)
from delora_sd.errors import UserError
from delora_sd.leftovers import remove_leftovers
from delora_sd.locks import hold

__all__ = [
    "FORMAT_VERSION",
    "RunFolder",
    "append_line",
    "read_json",
    "read_lines",
    "write_bytes",
    "write_file",
    "write_folder",
    "write_json",
    "write_lines",
    "write_text",
]

FORMAT_VERSION = 1
"""Layout of a run folder. A folder of another version is refused, never guessed at."""


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
    def failure(self) -> Path:
        """Why training gave up: {"step", "reason"}; gone again when it is tried again."""
        return self.path / "failed.json"

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
        folders = (folder for folder in self.path.glob("checkpoints/step-*") if folder.is_dir())
        return sorted(int(match[1]) for folder in folders if (match := re.fullmatch(r"step-(\d{6,})", folder.name)))

    def is_finished(self) -> bool:
        """True when training has written its final adapter."""
        return (self.adapter / "adapter_config.json").exists()

    def check_version(self) -> None:
        """Raises UserError when the folder was written by another version of the layout."""
        if not self.manifest.exists():
            return
        manifest = read_json(self.manifest)
        found = manifest.get("format") if isinstance(manifest, dict) else "unknown"
        if found != FORMAT_VERSION:
            raise UserError(
                f"{self.path} is a run folder of format {found}, this version reads format {FORMAT_VERSION}; "
                "use another output_dir"
            )

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Holds the folder for this process; a second process is told who holds it.

        Whoever gets the folder first clears away what a crash left half-written.
        """
        with hold(self.path / ".lock", guarding=self.path, setting="output_dir"):
            remove_leftovers(self.path)
            yield
