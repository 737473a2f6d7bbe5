"""A caption for each photo: .txt files beside the photos, or one file as other trainers write it. Text only.

`data.captions` says where they are; the template says where they go, as `{caption}`.
"""

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from delora_sd.config.text import lines_of, read_json_text, read_text
from delora_sd.data.photo_files import is_of_the_system, is_photo
from delora_sd.data.prompts import instance_prompt
from delora_sd.data.subjects import Subject
from delora_sd.errors import UserError, nearest_name
from delora_sd.settings import DataConfig

BESIDE = "beside"
"""`data.captions=beside`: NAME.txt beside NAME.jpg."""
SIDECARS = (".txt", ".caption")
FILES = (".jsonl", ".json", ".csv")

MAX_CAPTION_BYTES = 10_000_000

_NAMES = ("file_name", "file", "image")
_TEXTS = ("text", "caption", "prompt")
"""Keys of one photo in a .jsonl or .csv: Hugging Face's `file_name` and `text` first."""
_SHOWN = 3

Entries = dict[str, str]
"""{name in the file: caption}"""


def photo_prompts(config: DataConfig, subject: Subject) -> tuple[str, ...]:
    """Returns what each trained photo is trained with; one text for all of them without captions.

    Raises:
        UserError: captions without a place in the template or the reverse, a photo without one, one without a photo, a
            text that does not name the subject.
    """
    template, names = config.instance_template, {"identifier": config.identifier, "class_word": subject.class_word}
    has_place = "{caption}" in template
    if config.captions is None:
        if has_place:
            raise UserError(f"data.instance_template '{template}' has {{caption}}, but data.captions is none")
        return (instance_prompt(template, **names),)
    if not has_place:
        raise UserError(
            f"data.captions={config.captions}: not used, data.instance_template '{template}' has no {{caption}}; "
            "try data.instance_template='{caption}', or 'a photo of {identifier} {class_word}, {caption}'"
        )
    captions = find_captions(config.captions, subject)
    prompts = []
    for photo in subject.photos:
        filled = template.replace("{caption}", captions[photo]).strip(" ,")
        if "{identifier}" not in filled:
            raise UserError(
                f"caption of {photo.name}: '{filled[:80]}' does not name the subject; write {{identifier}} into it, or "
                "into data.instance_template"
            )
        try:
            prompts.append(instance_prompt(filled, **names))
        except UserError as error:
            raise UserError(f"caption of {photo.name}: {error}") from None
    return tuple(prompts)


def find_captions(where: str, subject: Subject) -> dict[Path, str]:
    """Returns {photo: caption} of every photo of the subject, held out ones that have one included."""
    photos = subject.photos + subject.held_out
    folder = subject.photos[0].parent
    if where == BESIDE:
        entries, source = _read_sidecars(folder), f"{folder}"
    else:
        entries, source = _read_file(Path(where).expanduser()), where
    found = _match(entries, _photos_in(folder), source)
    missing = [photo for photo in subject.photos if photo not in found]
    if missing:
        shown = ", ".join(photo.name for photo in missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        place = f"{missing[0].stem}.txt beside it" if where == BESIDE else where
        raise UserError(
            f"no caption for {len(missing)} of {len(subject.photos)} photos ({shown}); expected in {place}; "
            f"`delora-sd captions {folder} class_word=...` writes them"
        )
    return {photo: found[photo] for photo in photos if photo in found}


def _photos_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_photo(path) and not is_of_the_system(path))


def _match(entries: Entries, photos: Sequence[Path], source: str) -> dict[Path, str]:
    """A name is a photo's own, with or without its ending; folders before it are other people's."""
    found: dict[Path, str] = {}
    for name, caption in entries.items():
        plain = name.replace("\\", "/").rpartition("/")[2]
        owners = [photo for photo in photos if plain == photo.name] or [p for p in photos if plain in (p.stem, p.name)]
        if not owners:
            known = tuple(photo.name for photo in photos)
            raise UserError(f"{source}: a caption for '{name}', but no such photo{nearest_name(plain, known)}")
        if len(owners) > 1:
            raise UserError(f"{source}: '{name}' could be {' or '.join(p.name for p in owners)}; give its ending")
        if owners[0] in found:
            raise UserError(f"{source}: two captions for {owners[0].name}; keep one")
        found[owners[0]] = " ".join(caption.split())
    return found


def _read_sidecars(folder: Path) -> Entries:
    files = sorted(path for path in folder.iterdir() if path.suffix in SIDECARS and not is_of_the_system(path))
    twice = {file.stem for file in files if file.suffix == SIDECARS[0]} & {
        file.stem for file in files if file.suffix == SIDECARS[1]
    }
    if twice:
        raise UserError(f"{folder}: {min(twice)} has a .txt and a .caption; keep one")
    return {file.stem: _read(file, read_text) for file in files}


def _read_file(file: Path) -> Entries:
    if file.suffix not in FILES:
        raise UserError(f"data.captions={file}: expected `{BESIDE}` or a file that ends with {', '.join(FILES)}")
    if file.suffix == ".json":
        return _from_mapping(_read(file, read_json_text), file)
    if file.suffix == ".csv":
        rows = _read(file, lambda path: list(csv.DictReader(read_text(path).splitlines())))
    else:
        rows = _read(file, lambda path: [json.loads(line) for line in lines_of(read_text(path))])
    return _from_rows(rows, file)


def _read(file: Path, read: Callable[[Path], Any]) -> Any:
    try:
        if file.stat().st_size > MAX_CAPTION_BYTES:
            raise UserError(f"{file}: more than {MAX_CAPTION_BYTES} bytes is no file of captions")
        return read(file)
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or f"not to be read as {file.suffix} ({error})"
        raise UserError(f"captions file {file}: {reason}") from None


def _from_mapping(found: Any, file: Path) -> Entries:
    """kohya's metadata: {name or path: {"caption": ..., "tags": ...}}, joined as kohya does; or {name: caption}."""
    if not isinstance(found, dict):
        raise UserError(f"{file}: expected {{photo: caption}}, found {type(found).__name__}")
    entries = {}
    for name, said in found.items():
        parts = [said.get("caption"), said.get("tags")] if isinstance(said, dict) else [said]
        texts = [part for part in parts if part]
        if not texts or not all(isinstance(text, str) for text in texts):
            raise UserError(f'{file}: {name}: no caption; expected a text, or {{"caption": ..., "tags": ...}}')
        entries[name] = ", ".join(texts)
    return entries


def _from_rows(rows: list[Any], file: Path) -> Entries:
    """Hugging Face's metadata: one photo per line, its `file_name` and its `text`."""
    entries: Entries = {}
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise UserError(f"{file}, entry {number}: expected fields, found {type(row).__name__}")
        name, text = (next((row[key] for key in keys if key in row), None) for keys in (_NAMES, _TEXTS))
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError(
                f"{file}, entry {number}: expected `{_NAMES[0]}` and `{_TEXTS[0]}`, found {', '.join(map(str, row))}"
            )
        if name in entries:
            raise UserError(f"{file}, entry {number}: two captions for {name}; keep one")
        entries[name] = text
    return entries
