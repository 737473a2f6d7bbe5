"""`delora-sd captions`: a .txt beside each photo, shown before it is written; what a person wrote or edited stays."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from delora_sd.captioning.captioner import Captioner, load_captioner
from delora_sd.captioning.identity_words import leave_identity_out
from delora_sd.captioning.settings import CaptionsConfig
from delora_sd.data.photo_files import find_photos
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import read_json, write_json, write_text

RECORD = ".delora_sd_captions.json"
"""{caption file: its hash when we wrote it}: a file with another hash is a person's."""

Standing = Literal["new", "ours", "edited"]


@dataclass(frozen=True, kw_only=True)
class Captioned:
    photo: Path
    standing: Standing
    """Of the .txt beside it: none yet, as we wrote it, or a person's."""
    said: str
    """The model's own words."""
    caption: str
    is_guessed: bool
    """The class word did not occur in what the model said."""


def make_captions(config: CaptionsConfig) -> None:
    """Shows a caption for every photo, and writes them when told to.

    Raises:
        UserError: no photos, no class word, two photos of one name, or a model that cannot be used.
    """
    folder, photos = _inputs(config)
    record = _read_record(folder / RECORD)
    standing = {photo: _standing(photo, record) for photo in photos}
    wanted = [photo for photo in photos if standing[photo] != "edited"]
    captioner = load_captioner(config.captioner, is_offline=config.offline) if wanted else None
    made = [_caption(photo, standing[photo], captioner, config.class_word or "") for photo in wanted]
    if config.write:
        for each in made:
            file = _sidecar(each.photo)
            write_text(file, each.caption + "\n")
            record[file.name] = hash_file(file)
            write_json(folder / RECORD, record)
    _show(folder, made, [photo for photo in photos if standing[photo] == "edited"], is_written=config.write)


def _inputs(config: CaptionsConfig) -> tuple[Path, tuple[Path, ...]]:
    if not config.photos:
        raise UserError("photos: missing; usage: delora-sd captions FOLDER class_word=dog")
    if not (config.class_word or "").strip():
        raise UserError("class_word: missing; say what the subject is, such as dog, so that it can be left out")
    folder = Path(config.photos).expanduser()
    photos = find_photos(folder)
    stems = [photo.stem for photo in photos]
    if twice := [stem for stem in stems if stems.count(stem) > 1]:
        raise UserError(f"{folder}: {stems.count(twice[0])} photos are named {twice[0]}; rename one, or {twice[0]}.txt")
    return folder, photos


def _standing(photo: Path, record: dict[str, Any]) -> Standing:
    file = _sidecar(photo)
    other = photo.with_suffix(".caption")
    if other.exists():
        return "edited"
    if not file.exists():
        return "new"
    return "ours" if record.get(file.name) == hash_file(file) else "edited"


def _caption(photo: Path, standing: Standing, captioner: Captioner, class_word: str) -> Captioned:
    said = captioner.describe(open_photo(photo))
    cleaned = leave_identity_out(said, class_word)
    return Captioned(photo=photo, standing=standing, said=said, caption=cleaned.text, is_guessed=cleaned.is_guessed)


def _sidecar(photo: Path) -> Path:
    return photo.with_suffix(".txt")


def _read_record(file: Path) -> dict[str, Any]:
    """A record that cannot be read counts as none: then every caption is a person's, and none is overwritten."""
    try:
        record = read_json(file) if file.exists() else {}
    except UserError:
        return {}
    return record if isinstance(record, dict) else {}


def _show(folder: Path, made: list[Captioned], edited: list[Path], *, is_written: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)  # captions are text, whatever brackets they hold
    table = Table("photo", "the model says", "caption")
    for each in made:
        guessed = " (guessed: look)" if each.is_guessed else ""
        table.add_row(each.photo.name, each.said, each.caption + guessed)
    for photo in edited:
        table.add_row(photo.name, "", f"kept: {photo.stem} has a caption of yours")
    console.print(table)
    if is_written:
        said = (
            f"{len(made)} captions written beside the photos of {folder}; edit them as you like, they stay as you edit"
        )
        console.print(f"{said}. Train with data.captions=beside data.instance_template='{{caption}}'", soft_wrap=True)
    else:
        console.print("nothing is written yet: the same command with write=true writes them", soft_wrap=True)
