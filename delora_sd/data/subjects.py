"""Who is to be learned: a subject of a dataset or a folder of own photos; what is wrong with them is said here."""

import csv
import os
from collections import Counter
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from delora_sd.config.load import read_yaml
from delora_sd.config.text import first_control_character, lines_of, read_text
from delora_sd.data.photo_files import find_photos, list_files
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError, nearest_name
from delora_sd.settings import DataConfig

MINIATURE = "miniature"
"""`data.dataset=miniature` is the bundled dataset."""

CLASSES_FILE = "classes.csv"
"""Optional list of a dataset's subjects (columns subject_name,class); without it the names are DreamBooth's."""

_FETCH = (
    "bring the dataset with `python scripts/prepare/fetch_dreambooth.py`, or own photos: data.photos, data.class_word"
)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """One subject and its photos."""

    name: str
    class_word: str
    is_live: bool
    """True: animals and people, which have their own prompt list."""
    photos: tuple[Path, ...]
    """Sorted by name."""
    held_out: tuple[Path, ...] = ()
    """Photos set apart by `data.hold_out`: never trained on; not among `photos`."""


def load_subject(config: DataConfig) -> Subject:
    """Returns the subject the settings describe, with its photos checked.

    Raises:
        UserError: neither or both of `data.subject` and `data.photos`, unknown subject, no or damaged photos.
    """
    subject = find_subject(config)
    for photo in subject.photos:
        open_photo(photo)
    return subject


def find_subject(config: DataConfig) -> Subject:
    """Returns the subject the settings describe; whoever opens its photos next says which are damaged.

    Raises:
        UserError: neither or both of `data.subject` and `data.photos`, unknown subject, no photos.
    """
    if config.subject is not None and config.photos is not None:
        raise UserError(f"data.subject={config.subject} and data.photos={config.photos} are both given; give one")
    if config.subject is not None:
        folder, class_word = _dataset_subject(config)
    elif config.photos is not None:
        folder, class_word = _own_photos(config)
    else:
        raise UserError("no subject: give data.subject=NAME of the dataset, or data.photos=FOLDER and data.class_word")
    is_live = is_live_class(class_word) if config.is_live is None else config.is_live
    return Subject(name=folder.name, class_word=class_word, is_live=is_live, photos=find_photos(folder))


def subject_names(dataset: str) -> tuple[str, ...]:
    """Returns the names of the dataset's subjects, alphabetical.

    Raises:
        UserError: no such dataset, or a malformed list of subjects.
    """
    return tuple(sorted(_class_words(_dataset_folder(dataset))))


def present_subjects(dataset: str) -> tuple[str, ...]:
    """Returns the names of the dataset's subjects whose folders are there, alphabetical: a dataset may be in part."""
    folder = _dataset_folder(dataset)
    return tuple(name for name in subject_names(dataset) if (folder / name).is_dir())


def is_live_class(class_word: str) -> bool:
    """Returns whether a class word names an animal or a person; of several words the last counts (`corgi dog`)."""
    words = class_word.lower()
    return words in dreambooth()["live_classes"] or words.split()[-1] in dreambooth()["live_classes"]


def class_facts(config: DataConfig) -> tuple[str | None, bool]:
    """Returns (class word, is it live) without looking at any photo; (None, False) when the settings do not say."""
    if config.subject is not None:
        class_word = _dataset_subject(config)[1]
    elif config.class_word is not None:
        class_word = _check_class_word(config.class_word)
    else:
        return None, bool(config.is_live)
    return class_word, is_live_class(class_word) if config.is_live is None else config.is_live


@cache
def dreambooth() -> dict[str, Any]:
    """Returns the facts of the DreamBooth dataset: `subjects`, `live_classes`, `prompts`."""
    return read_yaml(Path(__file__).with_name("dreambooth.yaml"))


def _dataset_subject(config: DataConfig) -> tuple[Path, str]:
    """Returns (folder of the photos, class word)."""
    dataset = _dataset_folder(config.dataset)
    class_words = _class_words(dataset)
    if config.subject not in class_words:
        known = tuple(class_words)
        raise UserError(f"unknown subject '{config.subject}' (data.subject){nearest_name(config.subject, known)}")
    return dataset / config.subject, _check_class_word(config.class_word or class_words[config.subject])


def _own_photos(config: DataConfig) -> tuple[Path, str]:
    folder = Path(config.photos).expanduser()
    if not config.class_word or not config.class_word.strip():
        raise UserError(f"data.class_word is missing: say what the subject in {folder} is, such as dog, backpack, toy")
    list_files(folder)  # before resolve(), which does not explain a loop of links
    return folder.resolve(), _check_class_word(config.class_word)


def _check_class_word(class_word: str) -> str:
    if not class_word.strip() or first_control_character(class_word) or set(class_word) & set("{}"):
        raise UserError(f"data.class_word={class_word!r}: expected plain words, such as dog")
    return class_word.strip()


def _dataset_folder(dataset: str) -> Path:
    if dataset == MINIATURE:
        from delora_sd import miniature

        return miniature.SUBJECTS_FOLDER
    folder = Path(dataset).expanduser()
    if not folder.is_dir():
        raise UserError(f"data.dataset={dataset}: no such folder; {_FETCH}")
    return folder


def _class_words(dataset: Path) -> dict[str, str]:
    """Returns {subject: class word} of the dataset: its own list, else DreamBooth's."""
    file = dataset / CLASSES_FILE
    if not file.exists():
        if not any((dataset / name).is_dir() for name in dreambooth()["subjects"]):
            raise UserError(f"data.dataset={dataset}: no DreamBooth subject and no {CLASSES_FILE} in it; {_FETCH}")
        return dreambooth()["subjects"]
    try:
        rows = list(csv.DictReader(lines_of(read_text(file))))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(
            f"{file}: cannot be read ({error}); expected text with the columns subject_name,class"
        ) from None
    words = {row.get("subject_name") or "": row.get("class") or "" for row in rows}
    if not words or not all(map(is_plain_name, words)) or not all(words.values()):
        raise UserError(f"{file}: expected the columns subject_name,class; every name the name of a folder beside it")
    if len(words) < len(rows):
        twice = Counter(row["subject_name"] for row in rows).most_common(1)[0][0]
        raise UserError(f"{file}: subject '{twice}' is listed twice; names must differ")
    return words


def is_plain_name(name: str) -> bool:
    """Returns whether a name from a file can be that of a file or folder, and stays in its folder."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return bool(name) and name not in (".", "..") and not set(name) & set("/\\\0")
