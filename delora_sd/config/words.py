"""From words to typed values: what a setting declares decides how a word is read. Knows nothing of YAML or files.

A text setting takes what is written (`class_word: no` is the word "no"), a number setting takes `2e-2`,
and `none` is nothing only where the setting may be nothing.
"""

import math
import re
import types
from dataclasses import is_dataclass
from functools import cache
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from delora_sd.errors import nearest_name

_NOTHING = ("", "~", "null", "none")
_TRUTH = {"true": True, "yes": True, "on": True, "false": False, "no": False, "off": False}
_NO_TEXT = re.compile(r"[\x00\ud800-\udc7f]")
"""What no path and no prompt can hold. From \\udc80 on, it is a byte of a file name that is not UTF-8."""

_WHOLE = re.compile(r"[-+]?\d+")
_DECIMAL = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


class Word(str):
    """Text that nobody quoted: what it means depends on the setting it is for. Quoted text is a plain `str`."""


class Mismatch(ValueError):
    """A value that the declared type does not accept; the message says what would be accepted."""


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
        return _convert_row(value, hint)
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
    is_number = _DECIMAL.fullmatch(value) and math.isfinite(float(value))
    return float(value) if is_number else str(value)


def is_text(hint: Any) -> bool:
    """True when the setting takes its text as written, whatever characters it has."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(arm is types.NoneType or is_text(arm) for arm in get_args(hint))
    return hint is str or get_origin(hint) is Literal


def is_text_list(hint: Any) -> bool:
    """True when the setting is a list of texts, such as prompts."""
    if get_origin(hint) in (Union, types.UnionType):
        return all(arm is types.NoneType or is_text_list(arm) for arm in get_args(hint))
    return get_origin(hint) in (tuple, list) and all(arm is Ellipsis or is_text(arm) for arm in get_args(hint))


def accepted(hint: Any) -> str:
    """Returns in words what a setting accepts, such as "whole number" or "column | frobenius | none"."""
    origin, arms = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return " or ".join("none" if arm is types.NoneType else accepted(arm) for arm in arms)
    if origin is Literal:
        return " | ".join(map(str, arms))
    if origin is dict:
        return "mapping {name: " + accepted(arms[1]) + "}"
    if origin in (tuple, list):
        is_open = origin is list or arms[-1] is Ellipsis
        return f"list of {accepted(arms[0])}" if is_open else f"[{', '.join(map(accepted, arms))}]"
    return _KINDS.get(hint, "settings" if is_dataclass(hint) else "anything")


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


def _convert_row(value: Any, schema: type) -> Any:
    """A dataclass inside a list or a mapping, or a section given as one word."""
    declared = hints(schema)
    if not isinstance(value, dict):
        raise Mismatch(f"is a section, found {show(value)}; its settings are {', '.join(declared)}")
    converted = {}
    for name, item in value.items():
        if name not in declared:
            raise Mismatch(f"unknown setting '{name}'{nearest_name(name, list(declared))}")
        try:
            converted[name] = convert(item, declared[name])
        except Mismatch as error:
            raise Mismatch(f"{name}: {error}") from None
    return schema(**converted)


def _convert_text(value: Any) -> str:
    if not isinstance(value, str):
        raise Mismatch(f"expected text, found {show(value)}; quote text that has brackets or a colon")
    if _NO_TEXT.search(value):
        raise Mismatch(f"expected text, found {show(value)} with a NUL or half a character in it")
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


_KINDS = {str: "text", bool: "true | false", int: "whole number", float: "number"}
_SCALARS = {str: _convert_text, bool: _convert_truth, int: _convert_whole, float: _convert_number}
