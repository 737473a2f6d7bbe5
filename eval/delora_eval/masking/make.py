"""`delora-sd masks PHOTOS class_word=dog`: one mask per photo, never over one that a person made or edited."""

import io
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image

from delora_eval.masking.page import render_overlays
from delora_eval.masking.segmenter import Segmenter, find_subject, load_segmenter
from delora_eval.settings import MasksConfig
from delora_sd.data.masks import MASK_FOLDER, find_mask
from delora_sd.data.photo_files import find_photos
from delora_sd.data.photos import open_alpha, open_photo
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import read_json, write_bytes, write_json, write_text

RECORD = ".made.json"
"""{mask: what it was made from and the hash of what was written}: a mask with another hash was edited."""

Ending = Literal["made", "unchanged", "yours", "alpha", "not found"]

LABELS: dict[Ending, str] = {
    "made": "made",
    "unchanged": "already made",
    "yours": "kept: drawn or edited by a person",
    "alpha": "the photo's own alpha channel",
    "not found": "nothing found; draw it, lower threshold=, or say it in other words",
}


@dataclass(frozen=True, kw_only=True)
class Made:
    """What became of one photo's mask."""

    photo: Path
    ending: Ending
    share: float | None
    """Share of the photo that is the subject; none: no mask."""


def make_masks(config: MasksConfig) -> str:
    """Makes the masks that are missing, writes the overlay page, and returns a line per photo.

    Raises:
        UserError: no photos, no class word, a threshold out of range, or no segmenter.
    """
    folder, photos, class_word = _check(config)
    masks = Path(config.output).expanduser() if config.output else folder / MASK_FOLDER
    record = _read_record(masks / RECORD)
    facts = {"class_word": class_word, "threshold": config.threshold, "segmenter": config.segmenter}
    endings = {photo: _standing(photo, masks, record, facts) for photo in photos}
    segmenter = load_segmenter(config) if any(ending == "made" for ending in endings.values()) else None
    made = [_make(photo, masks, endings[photo], segmenter, record, facts) for photo in photos]
    page = Path(config.page).expanduser() if config.page else masks / "overlay.html"
    write_text(page, render_overlays(f"Masks of {folder.name}", [_shown(item, masks) for item in made]))
    return "\n".join([*map(_line, made), f"masks: {masks}", f"page: {page}"])


def _check(config: MasksConfig) -> tuple[Path, tuple[Path, ...], str]:
    if not config.photos:
        raise UserError("which photos: delora-sd masks FOLDER class_word=dog")
    folder = Path(config.photos).expanduser()
    photos = find_photos(folder)
    if not config.class_word or not config.class_word.strip():
        raise UserError(f"class_word is missing: say what the subject in {folder} is, such as dog, backpack, toy")
    if not 0 < config.threshold < 1:
        raise UserError(f"threshold={config.threshold}: expected a number between 0 and 1, such as 0.5")
    stems = [photo.stem for photo in photos]
    for photo in photos:
        if stems.count(photo.stem) > 1:
            raise UserError(f"{photo}: another photo is also named {photo.stem}, and a mask has one name; rename one")
    return folder, photos, config.class_word.strip()


def _standing(photo: Path, masks: Path, record: dict[str, Any], facts: dict[str, Any]) -> Ending:
    """Returns what is to be done about the photo's mask; `made`: make it."""
    file = masks / f"{photo.stem}.png"
    if not file.exists():
        return "alpha" if open_alpha(photo) is not None else "made"
    known = record.get(file.name)
    if known is None or known.get("sha256") != hash_file(file):
        return "yours"
    return "unchanged" if known == _entry(file, photo, facts) else "made"


def _make(
    photo: Path, masks: Path, ending: Ending, segmenter: Segmenter | None, record: dict[str, Any], facts: dict[str, Any]
) -> Made:
    file = masks / f"{photo.stem}.png"
    if ending == "made" and segmenter is not None:
        found = find_subject(segmenter, open_photo(photo), facts["class_word"]) >= facts["threshold"]
        if not found.any():
            return Made(photo=photo, ending="not found", share=None)
        write_bytes(file, _to_png(found))
        record[file.name] = _entry(file, photo, facts)
        write_json(masks / RECORD, record)
        return Made(photo=photo, ending="made", share=float(found.mean()))
    values = np.asarray(open_alpha(photo) if ending == "alpha" else open_photo(file).convert("L"))
    return Made(photo=photo, ending=ending, share=float((values > 127).mean()))


def _entry(file: Path, photo: Path, facts: dict[str, Any]) -> dict[str, Any]:
    return facts | {"sha256": hash_file(file), "photo": hash_file(photo)}


def _read_record(file: Path) -> dict[str, Any]:
    """A record that cannot be read counts as none: then every mask is a person's, and none is overwritten."""
    try:
        record = read_json(file) if file.exists() else {}
    except (UserError, json.JSONDecodeError):
        return {}
    return (
        {name: entry for name, entry in record.items() if isinstance(entry, dict)} if isinstance(record, dict) else {}
    )


def _to_png(found: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.where(found, 255, 0).astype(np.uint8)).save(buffer, format="PNG")
    return buffer.getvalue()


def _shown(made: Made, masks: Path) -> tuple[Path, Path | None, str]:
    """Returns (photo, its mask, what is said under it) for the page."""
    file = masks / f"{made.photo.stem}.png"
    source = file if file.exists() else find_mask(made.photo, folder=None) if made.ending == "alpha" else None
    return made.photo, source, _line(made)


def _line(made: Made) -> str:
    share = "" if made.share is None else f", {made.share:.0%} of the photo"
    return f"{made.photo.name}: {LABELS[made.ending]}{share}"
