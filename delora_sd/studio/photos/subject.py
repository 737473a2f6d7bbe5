"""What the page knows of a subject beside its photos: class word, living or not, identifier, how many are held out."""

import shutil
from dataclasses import asdict, dataclass
from pathlib import Path

from delora_sd.config.text import first_control_character
from delora_sd.data.photo_files import is_of_the_system, is_photo
from delora_sd.data.subjects import is_live_class
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_json, write_json
from delora_sd.studio.folder import StudioFolder, check_name

SUBJECT_FILE = "subject.json"
_FIELDS = {"class_word": str, "is_live": bool | None, "identifier": str, "hold_out": int}
_HOLD_ONE_FROM = 4
"""Photos; with fewer, one less to learn from weighs more than what the held-out one would tell."""


@dataclass(frozen=True, kw_only=True)
class SubjectFacts:
    """`subject.json` beside the photos."""

    class_word: str
    is_live: bool | None = None
    """None: known from the class word."""
    identifier: str = "qwe"
    hold_out: int = 0

    @property
    def lives(self) -> bool:
        return is_live_class(self.class_word) if self.is_live is None else self.is_live


def create_subject(folder: StudioFolder, name: str, class_word: str) -> str:
    """Makes the folder of a new subject; returns its name.

    Raises:
        UserError: a name that is none, or that another subject has; no class word.
    """
    plain = check_name(name, setting="name")
    if plain.casefold() in [known.casefold() for known in folder.subject_names()]:
        raise UserError(f"name: there is a subject '{plain}' already; choose it above, or take another name")
    facts = SubjectFacts(class_word=_check_words(class_word, "class word", "what it is: dog, backpack, toy"))
    write_json(folder.photos / plain / SUBJECT_FILE, asdict(facts))
    return plain


def read_subject(photos: Path) -> SubjectFacts:
    """Returns the facts. Raises UserError for a file that is damaged or lacks one."""
    file = photos / SUBJECT_FILE
    if not file.exists():
        raise UserError(f"{photos.name}: say what it is (class word) and save")
    return SubjectFacts(
        **{
            key: check_record(read_json(file), _FIELDS, source=str(file), advice="save the subject again")[key]
            for key in _FIELDS
        }
    )


def save_subject(photos: Path, facts: SubjectFacts) -> None:
    """Writes the facts. Raises UserError for words or numbers that no training takes."""
    _check_words(facts.class_word, "class word", "what it is: dog, backpack, toy")
    _check_words(facts.identifier, "identifier", "a rare word such as qwe")
    num_photos = len(list_photos(photos))
    if not 0 <= facts.hold_out <= max(0, num_photos - 2):
        raise UserError(
            f"held out: {facts.hold_out} of {num_photos} photos; at least 2 must remain to train on, "
            f"so at most {max(0, num_photos - 2)}"
        )
    write_json(photos / SUBJECT_FILE, asdict(facts))


def usual_hold_out(num_photos: int) -> int:
    """Returns how many photos are held out when nobody said otherwise."""
    return int(num_photos >= _HOLD_ONE_FROM)


def list_photos(photos: Path) -> list[Path]:
    """Returns the subject's photos by name, [] before there are any."""
    return sorted(path for path in photos.iterdir() if is_photo(path) and not is_of_the_system(path) and path.is_file())


def remove_photo(photos: Path, name: str) -> None:
    """Deletes a photo of the studio's folder with its caption and mask. Raises UserError when it is not there."""
    photo = find_photo(photos, name)
    for path in (photo.with_suffix(".txt"), photos / "masks" / f"{photo.stem}.png", photo):
        path.unlink(missing_ok=True)


def remove_subject(photos: Path) -> None:
    """Deletes a subject's folder; its runs stay."""
    shutil.rmtree(photos)


def find_photo(photos: Path, name: str) -> Path:
    """Returns the photo of that name. Raises UserError when the subject has none."""
    for photo in list_photos(photos):
        if photo.name == name:
            return photo
    raise UserError(f"{photos.name}: no photo '{name[:60]}' (any more); reload the page")


def _check_words(text: str, setting: str, expected: str) -> str:
    if not text.strip() or first_control_character(text) or set(text) & set("{}"):
        raise UserError(f"{setting}: '{text[:60]}'; expected plain words, {expected}")
    return text.strip()
