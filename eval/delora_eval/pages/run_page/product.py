"""What other tools draw with a run's exported files: images that training left in the run folder."""

from dataclasses import dataclass
from typing import Any

from delora_eval.pages.thumbnails import Thumbnail, make_thumbnails
from delora_sd.files.run_folder import RunFolder

_WAYS = (
    ("preview.png", "The trained adapter", ""),
    ("diffusers.png", "The diffusers file in diffusers", ".diffusers.safetensors"),
    ("comfyui.png", "The kohya file in ComfyUI's arithmetic", ".kohya.safetensors in ComfyUI"),
)
"""(image, title, how its entry in the manifest ends)."""


@dataclass(frozen=True, kw_only=True)
class Drawn:
    """One caption and one noise, drawn in one way."""

    image: Thumbnail
    title: str
    difference: float | None
    """From the trained adapter's, mean in steps of 1/255; None: nothing to compare, or not known."""


def read_product(run: RunFolder, manifest: dict[str, Any], thumbnail_px: int) -> tuple[Drawn, ...]:
    """Returns the images that training left in `product/`, our own first; () when there is nothing to compare."""
    differences = manifest.get("export_difference", {})
    found = [way for way in _WAYS if (run.product / way[0]).is_file()]
    if len(found) < 2:
        return ()
    images = make_thumbnails([run.product / name for name, _, _ in found], thumbnail_px)
    return tuple(
        Drawn(image=image, title=title, difference=_difference(differences, ending))
        for image, (_, title, ending) in zip(images, found, strict=True)
    )


def not_loaded(manifest: dict[str, Any]) -> tuple[str, ...]:
    """Returns the files that a tool could not load."""
    return tuple(name for name, value in manifest.get("export_difference", {}).items() if value is None)


def _difference(differences: dict[str, Any], ending: str) -> float | None:
    values = [value for name, value in differences.items() if ending and name.endswith(ending)]
    return values[0] if values and isinstance(values[0], float | int) else None
