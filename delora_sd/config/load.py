"""Settings: defaults < YAML files left to right < key=value. The only importer of the YAML library.

A typo is an error that names the nearest key; a wrong type says what was found and what is accepted.
"""

import ast
import inspect
import itertools
import re
import textwrap
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml

from delora_sd.config.overlay import Config, find_hint, with_settings
from delora_sd.config.text import read_text
from delora_sd.config.words import Word, is_text, is_text_list, natural, reads_as_nothing
from delora_sd.errors import UserError

MAX_YAML_BYTES = 200_000
"""No settings file is this large; a larger one is a mistake or an attack: the YAML library reads 60 kB a second."""

MAX_DEPTH = 50
"""Deepest nesting of a settings file; the YAML library needs minutes for some kilobytes of `[`."""

_PLAIN_TAGS = ("tag:yaml.org,2002:str", "tag:yaml.org,2002:seq", "tag:yaml.org,2002:map")


def load_config(
    schema: type[Config], files: list[str | Path], overrides: list[str], *, start: Config | None = None
) -> Config:
    """Returns a frozen `schema`: its defaults, overridden by YAML files left to right, then by key=value.

    Args:
        start: Takes the place of the defaults.

    Raises:
        UserError: unknown key (names the nearest), wrong type, unreadable file.
    """
    config = start or schema()
    for file in files:
        config = with_settings(config, _read_words(file), source=str(file))
    for override in overrides:
        config = with_settings(config, _parse_override(override, schema), source=f"'{override}'")
    return config


def from_dict(schema: type[Config], values: dict[str, Any], *, source: str) -> Config:
    """Returns a frozen `schema` from plain values, as `to_dict` gives them; `source` names the file in errors."""
    return with_settings(schema(), values, source=source)


def read_yaml(file: str | Path) -> Any:
    """Returns the parsed YAML file as plain dicts, lists and scalars; an empty file is {}.

    `2e-2` is a number, `no` is a word. Aliases are refused: no settings file needs them, a YAML bomb does.
    """
    return natural(_read_words(file))


def to_yaml(config: Any) -> str:
    """Returns the resolved config as YAML that `load_config` reads back to an equal object."""
    return yaml.dump(to_dict(config), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=120)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the config as plain dicts, lists and scalars."""
    return _plain(asdict(config))


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Returns {dotted key: value} of every setting; mappings such as `rank_pattern` count as one value."""
    values = {}
    for field in fields(config):
        value = getattr(config, field.name)
        if is_dataclass(value):
            values |= flatten(value, f"{prefix}{field.name}.")
        else:
            values[f"{prefix}{field.name}"] = value
    return values


def describe(schema: type, prefix: str = "") -> list[tuple[str, str, str]]:
    """Returns (dotted key, default, docstring) of every setting, in order, for `--help`."""
    return _describe(schema(), prefix)


def _describe(config: Any, prefix: str) -> list[tuple[str, str, str]]:
    docs = _field_docs(type(config))
    rows = []
    for field in fields(config):
        default = getattr(config, field.name)
        if is_dataclass(default):
            rows += _describe(default, f"{prefix}{field.name}.")
        else:
            rows.append((prefix + field.name, _show_default(default), docs.get(field.name, "")))
    return rows


def _read_words(file: str | Path) -> Any:
    path = Path(file).expanduser()
    try:
        if path.exists() and not path.is_file():
            raise UserError(f"settings file {path} cannot be read: it is not a file")
        size = path.stat().st_size
        if size > MAX_YAML_BYTES:
            raise UserError(f"{path}: {size} bytes is no settings file (at most {MAX_YAML_BYTES})")
        return _parse_yaml(read_text(path))
    except FileNotFoundError:
        raise UserError(f"settings file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"settings file {path} cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"settings file {path} is not valid YAML: {_where(error)}") from None


def _parse_yaml(text: str) -> Any:
    """Returns dicts, lists, `Word`s and quoted `str`s; {} for an empty text."""
    node = yaml.compose(text, Loader=_Loader)
    words = {} if node is None else _words(node)
    return {} if isinstance(words, Word) and words == "" else words


class _Loader(yaml.BaseLoader):
    """Refuses, before it reads on, what no settings file needs: deep nesting and aliases."""

    depth = 0

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node:
        event = self.peek_event()
        if isinstance(event, yaml.AliasEvent):
            raise _refusal("aliases (*name) are not accepted; write the value out", event)
        is_collection = isinstance(event, yaml.CollectionStartEvent)
        self.depth += is_collection
        if self.depth > MAX_DEPTH:
            raise _refusal(f"nested deeper than {MAX_DEPTH}", event)
        node = super().compose_node(parent, index)
        self.depth -= is_collection
        return node


def _words(node: yaml.Node) -> Any:
    """A node as its words. Tags such as !!python/object are refused, never obeyed."""
    if node.tag not in _PLAIN_TAGS:
        raise _refusal(f"tags ({node.tag}) are not accepted", node)
    if isinstance(node, yaml.ScalarNode):
        return Word(node.value) if node.style is None else node.value
    if isinstance(node, yaml.SequenceNode):
        return [_words(item) for item in node.value]
    mapping = {}
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode):
            raise _refusal("a key must be one word", key)
        if key.value in mapping:
            raise _refusal(f"key '{key.value}' is given twice", key)
        mapping[key.value] = _words(value)
    return mapping


def _refusal(problem: str, place: Any) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(problem=problem, problem_mark=place.start_mark)


def _parse_override(text: str, schema: type) -> dict[str, Any]:
    """Returns {dotted key: value}. Text settings take what is written; others may be YAML lists and mappings."""
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"'{text}' is neither a .yaml file nor key=value")
    value = value.strip()
    hint = find_hint(schema, tuple(key.split(".")))
    if is_text(hint):
        return {key: _typed_text(value)}
    if is_text_list(hint):
        return {key: _typed_texts(value)}
    if value[:1] not in ("[", "{") and not _is_quoted(value):
        return {key: Word(value)}
    try:
        return {key: _parse_yaml(value)}
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"'{text}': the value is not valid YAML ({_where(error)}); quote it") from None


def _typed_text(value: str) -> str:
    """Returns the text as typed; quotes around all of it are YAML's."""
    parsed = _try_yaml(value) if _is_quoted(value) else None
    return parsed if isinstance(parsed, str) else Word(value)


def _typed_texts(value: str) -> str | list[str]:
    """Returns a list when brackets enclose the whole; a prompt may begin with a bracket, a brace or a quote.

    What YAML cannot read as plain items, `[a {identifier} dog, a cat]`, is parted at its commas.
    """
    if not _is_enclosed(value):
        return _typed_text(value)
    items = _try_yaml(value)
    if isinstance(items, list) and all(isinstance(item, str) for item in items):
        return items
    return [_typed_text(item.strip()) for item in _ITEM.findall(value[1:-1]) if item.strip()]


_ITEM = re.compile(r"""\s*(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*')\s*(?=,|$)|[^,]+""")


def _is_quoted(value: str) -> bool:
    return len(value) > 1 and value[0] == value[-1] and value[0] in "\"'"


def _is_enclosed(value: str) -> bool:
    """True when the first bracket is closed by the last character: not so in `[wide] a dog [blurred]`."""
    if not (value.startswith("[") and value.endswith("]")):
        return False
    depths = itertools.accumulate((character == "[") - (character == "]") for character in value)
    return all(depth > 0 for depth in list(depths)[:-1])


def _try_yaml(value: str) -> Any:
    try:
        return _parse_yaml(value)
    except (yaml.YAMLError, RecursionError):
        return None


class _Dumper(yaml.SafeDumper):
    """Quotes text that would read as nothing, and whatever does not fit on one plain line."""

    def represent_text(self, text: str) -> yaml.Node:
        style = '"' if not text.isprintable() else "'" if reads_as_nothing(text) else None
        return self.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _Dumper.represent_text)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _field_docs(schema: type) -> dict[str, str]:
    """Returns {field: the string literal that follows it in the source}, of the class and those it extends."""
    docs = {}
    for own in filter(is_dataclass, reversed(schema.__mro__)):
        body = ast.parse(textwrap.dedent(inspect.getsource(own))).body[0].body
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
                docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def _show_default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(_show_item(item) for item in value) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _show_item(item: Any) -> str:
    """As it can be typed: quoted where a comma would part it."""
    text = str(item)
    return f'"{text}"' if "," in text and '"' not in text else text


def _where(error: Exception) -> str:
    """What is wrong and in which line, on one line."""
    problem = getattr(error, "problem", None) or str(error).strip().split("\n")[0]
    mark = getattr(error, "problem_mark", None)
    return f"line {mark.line + 1}: {problem}" if mark else problem
