"""A caption for every map, by the map's name: a file of ours or of others, OFT's lists, SceneParse150's categories."""

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delora_sd.config.text import lines_of, read_text
from delora_sd.errors import UserError

SCENES = "scenes"
"""`data.captions=scenes`: the category of each photo in sceneCategories.txt."""

SCENES_FILE = "sceneCategories.txt"
CAPTIONS_FILE = "captions.json"
"""In a split's folder: {name: caption}."""

_NAMES = ("file_name", "file", "image", "source")
_TEXTS = ("text", "caption", "prompt")
"""Keys of one map in a .jsonl or .csv; `source` and `prompt` are OFT's."""
_SHOWN = 3


def read_captions(file: Path, names: Sequence[str]) -> dict[str, str]:
    """Returns {map's name without ending: caption} for these maps; captions of other maps are left alone.

    Raises:
        UserError: no such file, another kind of file, a map with two captions, or maps without one.
    """
    found: dict[str, str] = {}
    for name, text in _entries(file):
        stem = Path(name.replace("\\", "/")).stem
        if stem in found:
            raise UserError(f"{file}: two captions for '{stem}'; keep one")
        found[stem] = " ".join(text.split())
    missing = [name for name in names if not found.get(name)]
    if missing:
        shown = ", ".join(missing[:_SHOWN]) + (", ..." if len(missing) > _SHOWN else "")
        raise UserError(f"{file}: no caption for {len(missing)} of {len(names)} maps ({shown}); add them")
    return {name: found[name] for name in names}


def _entries(file: Path) -> list[tuple[str, str]]:
    try:
        text = read_text(file)
        if file.suffix == ".csv":
            return _from_rows(list(csv.DictReader(text.splitlines())), file)
        if file.name == SCENES_FILE:
            return [_scene(line, file) for line in lines_of(text)]
        return _from_json(text, file)
    except FileNotFoundError:
        raise UserError(f"captions file {file} does not exist") from None
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"captions file {file}: cannot be read ({error})") from None


def _from_json(text: str, file: Path) -> list[tuple[str, str]]:
    """One mapping or list, or one object per line whatever the file's ending (OFT's .json files are such)."""
    try:
        parsed = _lines(text) if file.suffix == ".jsonl" else json.loads(text, object_pairs_hook=_Pairs)
    except ValueError:
        parsed = _lines(text)
    if isinstance(parsed, _Pairs) and not set(dict(parsed)) & {*_NAMES, *_TEXTS}:
        if wrong := [name for name, said in parsed if not isinstance(said, str)]:
            raise UserError(f"{file}: the caption of '{wrong[0]}' is no text")
        return list(parsed)
    return _from_rows(parsed if type(parsed) is list else [parsed], file)


def _lines(text: str) -> list[Any]:
    return [json.loads(line, object_pairs_hook=_Pairs) for line in lines_of(text)]


class _Pairs(list):
    """A JSON object as [(key, value)]: a key that is there twice is seen."""


def _from_rows(rows: list[Any], file: Path) -> list[tuple[str, str]]:
    entries = []
    for number, row in enumerate(rows, start=1):
        fields = dict(row) if isinstance(row, _Pairs | dict) else {}
        name, text = (next((fields[key] for key in keys if key in fields), None) for keys in (_NAMES, _TEXTS))
        if not isinstance(name, str) or not isinstance(text, str):
            raise UserError(f"{file}, entry {number}: expected `{_NAMES[0]}` and `{_TEXTS[0]}`, found {row!r:.80}")
        entries.append((name, text))
    return entries


def _scene(line: str, file: Path) -> tuple[str, str]:
    """`ADE_train_00000001 airport_terminal` -> (ADE_train_00000001, "an airport terminal")."""
    name, _, category = line.strip().partition(" ")
    words = category.replace("_", " ").strip()
    if not words:
        raise UserError(f"{file}: '{line[:80]}' names no scene")
    return name, f"{'an' if words[0] in 'aeiou' else 'a'} {words}"
