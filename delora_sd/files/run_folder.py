"""Every file name in a run folder: the contract between the stages. The writers themselves are in `atomic`."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError
from delora_sd.files.atomic import (
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
from delora_sd.files.leftovers import remove_leftovers
from delora_sd.files.locks import hold
from delora_sd.files.records import check_record

__all__ = [
    "FORMAT_VERSION",
    "MAX_NAME_BYTES",
    "RUN_FOLDER_ROOM",
    "RunFolder",
    "append_line",
    "check_length",
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

MAX_NAME_BYTES = 255
"""Of one name, on every file system in use; a letter of most scripts needs 2 or 3 bytes, an emoji 4."""
MAX_PATH_BYTES = 4095
RUN_FOLDER_ROOM = 35
"""What is put behind a run folder's name: `NAME-step001400.diffusers.safetensors`."""
_DEEPEST = 300
"""Bytes below a folder: images/SET/NN-SLUG-sSEED.png and the like, with room for what is being written."""

_MANIFEST_FIELDS = {
    "subject": dict, "base": dict, "versions": dict, "photos": dict, "held_out": dict, "masks": dict, "captions": dict,
    "shapes": dict, "export_difference": dict,
    "device": str, "git": str | None, "pack": int, "finished_step": int, "seconds": float,
    "peak_memory_bytes": int | None, "trainable_parameters": int,
}  # fmt: skip
_SUBJECT_FIELDS = {"name": str, "class_word": str, "is_live": bool}
_BASE_FIELDS = {
    "id": str, "fingerprint": str | None, "random_weights": bool, "size_px": int, "prediction_type": str,
    "family": str,
}  # fmt: skip
_EVENT_NUMBERS = (
    "loss", "instance_loss", "class_loss", "lr", "grad_norm", "distance", "boundary", "images_per_second",
)  # fmt: skip
_LAYER_NUMBERS = dict.fromkeys(("distance", "relative_distance", "boundary"), float | None)


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
    def averages(self) -> Path:
        """Adapters averaged over the training, a folder each: `ema`, and what `delora-sd average` made."""
        return self.path / "averages"

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
    def product(self) -> Path:
        """One image three times: the trained adapter's, the diffusers file's, the kohya file's as ComfyUI loads it."""
        return self.path / "product"

    @property
    def scores(self) -> Path:
        return self.path / "scores.jsonl"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def lock_file(self) -> Path:
        return self.path / ".lock"

    def checkpoint(self, step: int) -> Path:
        return self.path / "checkpoints" / f"step-{step:06d}"

    def checkpoint_steps(self) -> list[int]:
        """Returns the steps of all complete checkpoints, ascending."""
        folders = (folder for folder in self.path.glob("checkpoints/step-*") if folder.is_dir())
        return sorted(int(match[1]) for folder in folders if (match := re.fullmatch(r"step-(\d{6,})", folder.name)))

    def read_manifest(self) -> dict[str, Any]:
        """Returns the manifest, {} before there is one. Raises UserError when it is not what training writes."""
        if not self.manifest.exists():
            return {}
        source, advice = str(self.manifest), "run the same training again"
        manifest = check_record(read_json(self.manifest), {}, _MANIFEST_FIELDS, source=source, advice=advice)
        check_record(manifest.get("subject", {}), {}, _SUBJECT_FIELDS, source=f"{source}: subject", advice=advice)
        check_record(manifest.get("base", {}), {}, _BASE_FIELDS, source=f"{source}: base", advice=advice)
        for section in ("versions", "photos", "held_out", "masks", "captions"):
            facts = manifest.get(section, {})
            check_record(facts, dict.fromkeys(facts, str | None), source=f"{source}: {section}", advice=advice)
        return manifest

    def read_failure(self) -> dict[str, Any]:
        """Returns {"step", "reason"} of a training that gave up, {} of any other."""
        if not self.failure.exists():
            return {}
        fields = {"step": int, "reason": str}
        return check_record(read_json(self.failure), fields, source=str(self.failure), advice="delete it")

    def read_events(self) -> list[dict[str, Any]]:
        """Returns the lines of events.jsonl; [] before there are any."""
        events, optional = read_lines(self.events), dict.fromkeys(_EVENT_NUMBERS, float | None) | {"layers": dict}
        for number, event in enumerate(events, start=1):
            source, advice = f"{self.events}, line {number}", "delete that line"
            check_record(event, {"step": int}, optional, source=source, advice=advice)
            for layer, facts in event.get("layers", {}).items():
                check_record(facts, {}, _LAYER_NUMBERS, source=f"{source}: {layer[:80]}", advice=advice)
        return events

    def is_finished(self) -> bool:
        """True when training has written its final adapter."""
        return (self.adapter / "adapter_config.json").exists()

    def is_trained_to(self, step: int) -> bool:
        """True when the final adapter is that of a training of so many steps."""
        return self.is_finished() and self.read_manifest().get("finished_step") == step

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
        with hold(self.lock_file, guarding=self.path, setting="output_dir"):
            remove_leftovers(self.path)
            yield


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
