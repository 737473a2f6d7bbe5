"""Which files of a folder are photos, and which are left out: nothing that could be a photo vanishes without a word."""

import re
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from delora_sd.data.photos import HEIC_ADVICE, can_read_heic, opens_as_heic
from delora_sd.errors import UserError

PHOTO_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".tif", ".tiff", ".avif")
HEIC_SUFFIXES = (".heic", ".heif", ".hif")
"""Photos as well where pillow-heif is installed."""

_BESIDE_PHOTOS = (
    ".txt",
    ".caption",
    ".md",
    ".json",
    ".jsonl",
    ".csv",
    ".yaml",
    ".yml",
    ".html",
    ".xmp",
    ".aae",
    ".npz",
)
"""Captions, notes and sidecars: nobody takes them for photos."""

_VIDEO_SUFFIXES = (".mp4", ".mov", ".avi", ".mkv", ".webm", ".m4v")
_OF_SYSTEMS = re.compile(
    r"\..*|__MACOSX|@eaDir|@Recycle|#recycle|\$RECYCLE\.BIN|System Volume Information|lost\+found|__pycache__"
    r"|(eh)?thumbs(_vista)?\.db(:.*)?|desktop\.ini|Icon\r|~\$.*|.*~|.*\.(crdownload|part|partial|tmp|lnk|url)",
    re.IGNORECASE,
)
"""What systems, notebooks, browsers and storage boxes leave in folders; hidden files start with a dot."""
_SHOWN = 5
"""Names in one message."""


def is_of_the_system(path: Path) -> bool:
    """True for hidden files and what no user put there: it is left alone, and nobody is told to delete it."""
    return bool(_OF_SYSTEMS.fullmatch(path.name))


def list_files(folder: Path) -> list[Path]:
    """Returns what the user put into a folder, sorted by name.

    Raises:
        UserError: not a folder, or one that cannot be read.
    """
    try:
        return sorted(path for path in folder.iterdir() if not is_of_the_system(path))
    except NotADirectoryError:
        raise UserError(f"{folder}: expected a folder of photos, found {_kind_of_file(folder)}") from None
    except OSError as error:
        raise UserError(f"photo folder {folder}: {error.strerror or error}") from None


def is_photo(path: Path) -> bool:
    """True when the file's name says that it is a photo we can read; of a HEIC, its decoder has to agree."""
    suffix = path.suffix.lower()
    if suffix not in HEIC_SUFFIXES:
        return suffix in PHOTO_SUFFIXES
    return can_read_heic() and (not path.is_file() or opens_as_heic(path))


def find_photos(folder: Path) -> tuple[Path, ...]:
    """Returns the folder's photos, sorted by name; warns of whatever else could have been meant as one.

    Raises:
        UserError: the folder cannot be read or holds no photos.
    """
    files = list_files(folder)
    photos = tuple(path for path in files if is_photo(path))
    if not photos:
        raise UserError(f"no photos in {folder}: expected .jpg, .png or .webp, found {_count_kinds(files)}")
    for photo in photos:
        if not photo.is_file():
            raise UserError(f"{photo}: not a file (a folder, or a link that leads nowhere); move it elsewhere")
    warn_of_left_out(folder, files, len(photos))
    return photos


def warn_of_left_out(folder: Path, files: Sequence[Path], num_used: int) -> None:
    """Warns of the files that are neither photos we read nor what usually lies beside photos."""
    left_out = [f"{path.name} ({reason})" for path in files if (reason := _why_left_out(path))]
    if left_out:
        more = f" and {len(left_out) - _SHOWN} more" if len(left_out) > _SHOWN else ""
        photos = "1 photo is" if num_used == 1 else f"{num_used} photos are"
        warnings.warn(f"{folder}: {photos} used; left out: {', '.join(left_out[:_SHOWN])}{more}", stacklevel=1)


def _why_left_out(path: Path) -> str | None:
    """Returns why a file is no photo for us; None when it is one, or could not have been meant as one."""
    suffix = path.suffix.lower()
    if is_photo(path) or suffix in _BESIDE_PHOTOS:
        return None
    if path.is_dir() and path.name == "masks":  # of data.masks
        return None
    if path.is_dir():
        num_photos = sum(is_photo(inner) and not is_of_the_system(inner) for inner in _inside(path))
        return f"a folder; the {num_photos} photos in it are not read" if num_photos else None
    if suffix in HEIC_SUFFIXES:
        return "a HEIC that its decoder does not take; save it as .jpg" if can_read_heic() else HEIC_ADVICE
    if suffix in _VIDEO_SUFFIXES:
        return "a video; save frames of it as .jpg"
    return f"{suffix or 'a name without an ending'} is not read; save it as .jpg or .png"


def _inside(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError:
        return []


def _kind_of_file(path: Path) -> str:
    if path.suffix.lower() in _VIDEO_SUFFIXES:
        return "a video; save 4 to 6 of its frames as .jpg in a folder"
    return f"a {path.suffix or 'plain'} file"


def _count_kinds(files: list[Path]) -> str:
    """Returns `3 .heic, 1 .mp4`, most frequent first."""
    kinds = Counter("folder(s)" if path.is_dir() else path.suffix.lower() or "no extension" for path in files)
    found = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common(4)) or "nothing"
    if any(path.suffix.lower() in HEIC_SUFFIXES for path in files):
        found += f"; {HEIC_ADVICE}"
    videos = any(path.suffix.lower() in _VIDEO_SUFFIXES for path in files)
    return f"{found}; save 4 to 6 frames of the video as .jpg" if videos else found
