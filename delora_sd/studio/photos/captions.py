"""Captions beside photos, `NAME.txt`, as the page shows and edits them: plain text, whatever it holds."""

from pathlib import Path

from delora_sd.config.text import first_control_character, read_text
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_text

MAX_CAPTION = 1000
"""Characters; a text encoder reads 77 tokens."""


def read_caption(photo: Path) -> str:
    """Returns the caption, "" without one. Raises UserError for a file that is no text."""
    file = photo.with_suffix(".txt")
    try:
        return " ".join(read_text(file).split()) if file.is_file() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file.name}: {getattr(error, 'strerror', None) or 'not text'}; write it again") from None


def save_caption(photo: Path, text: str) -> None:
    """Writes the caption, or removes it when it is empty. Raises UserError for what no tokenizer takes."""
    file, caption = photo.with_suffix(".txt"), " ".join(text.split())
    if len(caption) > MAX_CAPTION:
        raise UserError(f"caption of {photo.name}: {len(caption)} characters; expected at most {MAX_CAPTION}")
    if control := first_control_character(caption):
        raise UserError(f"caption of {photo.name}: control character {control!r} is not accepted; remove it")
    if caption:
        write_text(file, caption + "\n")
    else:
        file.unlink(missing_ok=True)


def how_captioned(photos: list[Path]) -> tuple[int, int]:
    """Returns (photos with a caption, photos)."""
    return sum(bool(read_caption(photo)) for photo in photos), len(photos)
