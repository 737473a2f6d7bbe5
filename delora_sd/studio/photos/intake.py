"""Uploads become photos of the studio: looked at first, under a name that stays in the folder, whole or not at all."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_sd.data.photo_files import HEIC_SUFFIXES, PHOTO_SUFFIXES
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import write_file
from delora_sd.studio.photos.captions import save_caption
from delora_sd.studio.photos.subject import list_photos

MAX_UPLOAD_BYTES = 100_000_000
"""Of one file: a 100-megapixel photo has half of it."""
MAX_PHOTOS = 100
"""Of one subject: 4 to 6 are usual, and a page of more is none."""
_ODD = re.compile(r"[^\w .()+-]+")


@dataclass(frozen=True, kw_only=True)
class Taken:
    """What became of one upload."""

    name: str
    """As uploaded, or as it was saved."""
    problem: str | None = None
    """Why it was not taken; None: it was."""


def take_uploads(photos: Path, uploads: Sequence[Path]) -> list[Taken]:
    """Copies what is a photo, or the caption of one (.txt), into the folder; says of the others what they are."""
    ordered = sorted(uploads, key=lambda upload: upload.suffix.lower() == ".txt")  # a caption needs its photo
    return [_take(photos, upload) for upload in ordered]


def safe_name(name: str) -> str:
    """Returns the last part of any path, of any system, as a plain file name: no folders, no dots in front."""
    last = name.replace("\\", "/").rpartition("/")[2]
    stem, _, suffix = _ODD.sub("-", last).rpartition(".")
    return f"{stem.strip(' .-')[:80] or 'photo'}.{suffix.lower()}"


def _take(photos: Path, upload: Path) -> Taken:
    name = safe_name(upload.name)
    try:
        if upload.suffix.lower() == ".txt":
            return Taken(name=_take_caption(photos, upload, name))
        return Taken(name=_take_photo(photos, upload, name))
    except UserError as error:
        return Taken(name=name, problem=str(error).replace(str(upload), name))


def _take_photo(photos: Path, upload: Path, name: str) -> str:
    _check(photos, upload, name)
    open_photo(upload)
    known = {hash_file(photo): photo.name for photo in list_photos(photos)}
    twin = known.get(hash_file(upload))
    if twin is not None:
        raise UserError(f"{name}: the same file as {twin}, which is here already")
    target = photos / _free_name(photos, name)
    write_file(target, lambda temporary: shutil.copyfile(upload, temporary))
    return target.name


def _check(photos: Path, upload: Path, name: str) -> None:
    suffix, size = Path(name).suffix, upload.stat().st_size
    if suffix not in (*PHOTO_SUFFIXES, *HEIC_SUFFIXES):
        raise UserError(
            f"{name}: {suffix or 'a name without an ending'} is no photo; expected .jpg, .png, .webp, .heic"
        )
    if size > MAX_UPLOAD_BYTES:
        raise UserError(f"{name}: {size / 1e6:.0f} MB; expected at most {MAX_UPLOAD_BYTES / 1e6:.0f} MB")
    if len(list_photos(photos)) >= MAX_PHOTOS:
        raise UserError(f"{name}: there are {MAX_PHOTOS} photos already, the most a subject may have; remove some")


def _take_caption(photos: Path, upload: Path, name: str) -> str:
    """A .txt is the caption of the photo that has its name; it replaces nothing that was written."""
    stem = Path(name).stem
    owners = [photo for photo in list_photos(photos) if photo.stem == stem]
    if not owners:
        raise UserError(f"{name}: a caption, but there is no photo named {stem}; upload that first")
    if owners[0].with_suffix(".txt").exists():
        raise UserError(f"{name}: {owners[0].name} has a caption already; edit it on the page")
    if upload.stat().st_size > 10_000:
        raise UserError(f"{name}: more than 10,000 bytes is no caption")
    try:
        save_caption(owners[0], upload.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 text") from None
    return name


def _free_name(photos: Path, name: str) -> str:
    """Captions and masks go by the stem, so no two photos share one."""
    path, stems = Path(name), {photo.stem.casefold() for photo in list_photos(photos)}
    stem, number = path.stem, 2
    while stem.casefold() in stems:
        stem, number = f"{path.stem}-{number}", number + 1
    return f"{stem}{path.suffix}"
