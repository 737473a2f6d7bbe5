"""Lays values over a settings dataclass, section by section. Knows nothing of YAML or files."""

from collections.abc import Iterator
from dataclasses import is_dataclass, replace
from difflib import get_close_matches
from typing import Any, TypeVar, get_args, get_origin

from delora_sd.config.words import Mismatch, convert, hints, show
from delora_sd.errors import UserError

Config = TypeVar("Config")


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
