"""From words to typed settings: what a dataclass declares decides how a word is read. Knows nothing of YAML or files.

A string setting takes the text as written (`class_word: no` is the word "no"), a number setting takes `2e-2`,
and `none` is nothing only where the setting may be nothing.
"""

import math
import re
import types
from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from difflib import get_close_matches
from functools import cache
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from delora_sd.errors import UserError, nearest_name

Config = TypeVar("Config")

_NOTHING = ("", "~", "null", "none")
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_WHOLE = re.compile(r"[-+]?\d+")
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Word(str):
    """Text that nobody quoted: what it means depends on the setting it is for. Quoted text is a plain `str`."""


class Mismatch(ValueError):
    """A value that the declared type does not accept; the message says what would be accepted."""


def with_settings(config: Config, values: Any, *, source: str) -> Config:
    """Returns `config` with `values` laid over it: {section: {name: value}} or {"section.name": value}.

    Sections merge; every other value, also a mapping such as `rank_pattern`, is replaced whole.

    Raises:
        UserError: unknown key (names the nearest), a setting given twice, wrong type. `source` starts the message.
    """
    known, given = tuple(_keys(type(config))), set()
    if not isinstance(values, dict):
        raise UserError(f"{source}: expected `key: value` settings, found {show(values)}")
    for path, value in _walk(type(config), values):
        key = ".".join(path)
        if key in given:
            raise UserError(f"{source}: '{key}' is given twice")
        given.add(key)
        if find_hint(type(config), path) is None:
            raise UserError(f"{source}: unknown setting '{key}'{_nearest_key(key, known)}")
        try:
            config = _assign(config, path, value)
        except Mismatch as error:
            raise UserError(f"{source}: {key}: {error}") from None
    return config


def find_hint(schema: type, path: tuple[str, ...]) -> Any:
    """Returns the declared type of a dotted setting; None when there is no such setting.

    What follows the name of a mapping is one key, dots and all: `rank_pattern.down_blocks.0`.
    """
    hint: Any = schema
    for depth, name in enumerate(path):
        if not is_dataclass(hint):
            return get_args(hint)[1] if get_origin(hint) is dict and path[depth:] != ("",) else None
        hint = hints(hint).get(name)
        if hint is None:
            return None
    return hint


def convert(value: Any, hint: Any) -> Any:
    """Returns `value` as the declared type.

    Raises:
        Mismatch: the type does not accept it.
    """
    origin = get_origin(hint)
    if hint is Any:
        return natural(value)
    if origin in (Union, types.UnionType):
        return _convert_union(value, get_args(hint))
    if origin is Literal:
        return _convert_choice(value, get_args(hint))
    if origin in (tuple, list):
        return _convert_sequence(value, origin, get_args(hint))
    if origin is dict:
        return _convert_mapping(value, get_args(hint)[1])
    if is_dataclass(hint):
        return _convert_section(value, hint)
    return _SCALARS[hint](value)


def natural(value: Any) -> Any:
    """Returns a tree of words as plain Python: null, true, false and numbers become what they look like."""
    if isinstance(value, dict):
        return {str(key): natural(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [natural(item) for item in value]
    if not isinstance(value, Word):
        return value
    if value in ("", "~", "null"):
        return None
    if value in ("true", "false"):
        return value == "true"
    if _WHOLE.fullmatch(value) and len(value) < 20:
        return int(value)
    return float(value) if _DECIMAL.fullmatch(value) else str(value)


def is_text(hint: Any) -> bool:
    """True when the setting takes its text as written, whatever characters it has."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(arm is types.NoneType or is_text(arm) for arm in get_args(hint))
    return hint is str or get_origin(hint) is Literal


def reads_as_nothing(text: str) -> bool:
    """True when unquoted `text` means nothing (null) to a setting that may be nothing."""
    return text.lower() in _NOTHING


@cache
def hints(schema: type) -> dict[str, Any]:
    """Returns {field: declared type}."""
    return get_type_hints(schema)


def show(value: Any) -> str:
    """Returns what was found, short enough for one line."""
    if isinstance(value, dict):
        return f"a mapping with {', '.join(map(repr, list(value)[:3]))}" if value else "an empty mapping"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(str(value))
    return text if len(text) <= 60 else f"{text[:50]}…' ({len(str(value))} characters)"


def _walk(schema: type, values: dict, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yields (path, value) of every setting in nested or dotted `values`; sections are entered."""
    for name, value in values.items():
        here = _split(schema, (*path, *str(name).split(".")))
        hint = find_hint(schema, here)
        if is_dataclass(hint) and isinstance(value, dict):
            yield from _walk(schema, value, here)
        elif not (is_dataclass(hint) and value == ""):  # a section whose lines are all comments
            yield here, value


def _split(schema: type, path: tuple[str, ...]) -> tuple[str, ...]:
    """Joins what follows the name of a mapping to one key."""
    for depth in range(1, len(path)):
        if get_origin(find_hint(schema, path[:depth])) is dict:
            return (*path[:depth], ".".join(path[depth:]))
    return path


def _assign(config: Any, path: tuple[str, ...], value: Any) -> Any:
    name, rest = path[0], path[1:]
    hint, old = hints(type(config))[name], getattr(config, name)
    if rest and is_dataclass(hint):
        new = _assign(old, rest, value)
    elif rest:
        new = {**old, rest[0]: convert(value, get_args(hint)[1])}
    else:
        new = convert(value, hint)
    return replace(config, **{name: new})


def _keys(schema: type, prefix: str = "") -> Iterator[str]:
    """Yields the dotted keys of all sections and settings."""
    for name, hint in hints(schema).items():
        yield prefix + name
        if is_dataclass(hint):
            yield from _keys(hint, f"{prefix}{name}.")


def _nearest_key(key: str, known: tuple[str, ...]) -> str:
    """`rank` finds `adapter.rank`; a misspelt key finds the nearest whole key, then the nearest last part."""
    last = key.rsplit(".", 1)[-1]
    by_last_part = {name.rsplit(".", 1)[-1]: name for name in reversed(known)}
    same_name = [name for name in known if name.rsplit(".", 1)[-1] == last]
    close = get_close_matches(key, same_name, n=1, cutoff=0.0) or get_close_matches(key, known, n=1, cutoff=0.6)
    close = close or [by_last_part[name] for name in get_close_matches(last, by_last_part, n=1, cutoff=0.6)]
    return f"; did you mean '{close[0]}'?" if close else "; --help lists every setting"


def _convert_union(value: Any, arms: tuple[Any, ...]) -> Any:
    if types.NoneType in arms and (value is None or (isinstance(value, Word) and reads_as_nothing(value))):
        return None
    reasons = []
    for arm in arms:
        if arm is not types.NoneType:
            try:
                return convert(value, arm)
            except Mismatch as error:
                reasons.append(str(error))
    raise Mismatch(reasons[0])


def _convert_choice(value: Any, options: tuple[Any, ...]) -> Any:
    for option in options:
        if value == option or (isinstance(value, Word) and value == str(option)):
            return option
    accepted = ", ".join(map(str, options))
    close = nearest_name(str(value), list(map(str, options))).partition("; known:")[0]
    raise Mismatch(f"expected one of {accepted}; found {show(value)}{close}")


def _convert_sequence(value: Any, kind: type, arms: tuple[Any, ...]) -> Any:
    """A single value where a list is expected is a list of one: `prompts=dreambooth`."""
    if isinstance(value, dict) and not (is_dataclass(arms[0]) or arms[0] is Any):
        raise Mismatch(f"expected a list, found {show(value)}; quote text that has a colon")
    if value is None or (isinstance(value, Word) and value in _NOTHING[:3]):
        raise Mismatch("expected a list, found nothing; [] is the empty list")
    items = list(value) if isinstance(value, list | tuple) else [value]
    if kind is list or arms[-1] is Ellipsis:
        return kind(convert(item, arms[0]) for item in items)
    if len(items) != len(arms):
        raise Mismatch(f"expected {len(arms)} values such as [{', '.join(['…'] * len(arms))}], found {len(items)}")
    return tuple(convert(item, arm) for item, arm in zip(items, arms, strict=True))


def _convert_mapping(value: Any, item_hint: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Mismatch(f"expected a mapping such as {{name: value}}, found {show(value)}")
    converted = {}
    for key, item in value.items():
        try:
            converted[str(key)] = convert(item, item_hint)
        except Mismatch as error:
            raise Mismatch(f"{key}: {error}") from None
    return converted


def _convert_section(value: Any, schema: type) -> Any:
    """A dataclass inside a list or mapping, or a section given as one word."""
    if not isinstance(value, dict):
        names = ", ".join(hints(schema))
        raise Mismatch(f"is a section, found {show(value)}; its settings are {names}")
    try:
        return with_settings(schema(), value, source="")
    except UserError as error:
        raise Mismatch(str(error).removeprefix(": ")) from None


def _convert_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Mismatch(f"expected text, found {show(value)}; quote text that has brackets or a colon")
    return str(value)


def _convert_truth(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.lower() in _TRUTH:
        return _TRUTH[value.lower()]
    raise Mismatch(f"expected true or false, found {show(value)}")


def _convert_whole(value: Any) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and _WHOLE.fullmatch(value) and len(value) < 20:
        return int(value)
    raise Mismatch(f"expected a whole number, found {show(value)}")


def _convert_number(value: Any) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number or (isinstance(value, str) and _DECIMAL.fullmatch(value)):
        number = float(value)
        if math.isfinite(number):
            return number
    raise Mismatch(f"expected a number, found {show(value)}")


_SCALARS = {str: _convert_text, bool: _convert_truth, int: _convert_whole, float: _convert_number}
