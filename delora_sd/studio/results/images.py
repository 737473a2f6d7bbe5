"""Images that were drawn from a run, and how each was made; the same prompt and seed side by side. Reading only."""

import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, read_lines

LISTING = "images.jsonl"


@dataclass(frozen=True, kw_only=True)
class ImageView:
    """One image and its line in images.jsonl."""

    file: Path
    settings: Mapping[str, Any]
    changed: float
    """When its set last grew, seconds since 1970."""

    @property
    def prompt(self) -> str:
        return str(self.settings.get("prompt", ""))

    @property
    def seed(self) -> int:
        return int(self.settings.get("seed", 0))

    @property
    def label(self) -> str:
        """What drew it: the base, a checkpoint, or the final adapter, with what is not as usual."""
        strength, step = self.settings.get("strength"), self.settings.get("step")
        others = len(self.settings.get("extra_adapters") or {})
        if not strength and not others:
            return "base"
        name = "final" if step is None else f"step {step}"
        parts = [name] if strength in (1, 1.0, None) else [f"{name} x {strength:g}"]
        return " + ".join(parts + ([f"{others} more"] if others else []))


def read_images(run: RunFolder) -> list[ImageView]:
    """Returns every image of the run that is listed and there, the newest set first; lines nobody can read are left."""
    found = []
    for folder in _sets(run.images):
        listing = folder / LISTING
        changed = listing.stat().st_mtime
        for record in _lines(listing):
            file = folder / str(record.get("file", ""))
            if file.parent == folder and file.suffix == ".png" and file.is_file():
                found.append(ImageView(file=file, settings=record, changed=changed))
    return sorted(found, key=lambda image: -image.changed)


def side_by_side(images: Iterable[ImageView]) -> dict[tuple[str, int], list[ImageView]]:
    """Returns {(prompt, seed): images}, those drawn in the same way otherwise: base first, then by step, final last.

    Of the same label only the newest counts.
    """
    rows: dict[tuple[str, int], dict[str, ImageView]] = {}
    for image in images:
        rows.setdefault((image.prompt, image.seed), {}).setdefault(image.label, image)
    return {key: sorted(row.values(), key=_order) for key, row in rows.items()}


def _order(image: ImageView) -> tuple[int, float]:
    if image.label == "base":
        return 0, 0
    step = image.settings.get("step")
    return (2, 0) if step is None else (1, float(step))


def _sets(images: Path) -> list[Path]:
    if not images.is_dir():
        return []
    return sorted(path for path in images.iterdir() if (path / LISTING).is_file() and not path.name.startswith("."))


def _lines(listing: Path) -> list[dict[str, Any]]:
    with contextlib.suppress(UserError):
        return read_lines(listing)
    return []
