"""Settings: defaults < YAML files left to right < key=value. The only importer of the YAML library.

A typo is an error that names the nearest key; a wrong type says what was found and what is accepted.
"""

import ast
import inspect
import itertools
import re
import textwrap
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from delora_sd.errors import UserError, nearest_name

Config = TypeVar("Config")

MAX_YAML_BYTES = 1_000_000
"""No settings file is this large; a larger one is a mistake or an attack."""


def load_config(schema: type[Config], files: list[str | Path], overrides: list[str]) -> Config:
    """Returns a frozen `schema`: its defaults, overridden by YAML files left to right, then by key=value.

    Raises:
        UserError: unknown key (names the nearest), wrong type, unreadable file.
    """
    node = _writable(OmegaConf.structured(schema))
    for file in files:
        node = _merge(node, OmegaConf.create(read_yaml(file)), schema, source=str(file))
    for override in overrides:
        node = _merge(node, _parse_override(override), schema, source=f"'{override}'")
    try:
        return OmegaConf.to_object(node)
    except OmegaConfBaseException as error:
        raise UserError(f"settings: {_first_line(error)}") from None


def from_dict(schema: type[Config], values: dict[str, Any], *, source: str) -> Config:
    """Returns a frozen `schema` from plain values, as `to_dict` gives them; `source` names the file in errors."""
    node = _merge(_writable(OmegaConf.structured(schema)), OmegaConf.create(values), schema, source=source)
    return OmegaConf.to_object(node)


def read_yaml(file: str | Path) -> Any:
    """Returns the parsed YAML file. Aliases are refused: no settings file needs them, a YAML bomb does."""
    path = Path(file).expanduser()
    try:
        size = path.stat().st_size
        if size > MAX_YAML_BYTES:
            raise UserError(f"{path}: {size} bytes is no settings file (at most {MAX_YAML_BYTES})")
        text = path.read_text(encoding="utf-8")
        if any(isinstance(token, yaml.AliasToken) for token in yaml.scan(text)):
            raise UserError(f"{path}: YAML aliases (*name) are not accepted; write the value out")
        value = yaml.load(text, Loader=_Loader)
    except FileNotFoundError:
        raise UserError(f"settings file {path} does not exist") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"settings file {path} cannot be read: {error}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise UserError(f"settings file {path} is not valid YAML: {_first_line(error)}") from None
    return {} if value is None else value


def to_yaml(config: Any) -> str:
    """Returns the resolved config as YAML that `load_config` reads back to an equal object."""
    return OmegaConf.to_yaml(OmegaConf.structured(config), resolve=False)


def to_dict(config: Any) -> dict[str, Any]:
    """Returns the config as plain dicts, lists and scalars."""
    return OmegaConf.to_container(OmegaConf.structured(config))


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
    docs = _field_docs(schema)
    rows = []
    for field in fields(schema):
        default = field.default if field.default is not MISSING else field.default_factory()
        if is_dataclass(default):
            rows += describe(type(default), f"{prefix}{field.name}.")
        else:
            rows.append((prefix + field.name, _show_default(default), docs.get(field.name, "")))
    return rows


class _Loader(yaml.SafeLoader):
    """SafeLoader that reads 2e-2 as a number (YAML 1.1 wants 2.0e-2) and refuses a key given twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = [key.value for key, _ in node.value]
        for key in keys:
            if keys.count(key) > 1:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", node.start_mark)
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _parse_override(text: str) -> DictConfig:
    key, separator, value = text.partition("=")
    if not separator or not key:
        raise UserError(f"'{text}' is neither a .yaml file nor key=value")
    try:
        parsed = yaml.load(value, Loader=_Loader) if value else ""
    except yaml.YAMLError as error:
        raise UserError(f"'{text}': the value is not valid YAML ({_first_line(error)}); quote it") from None
    node = OmegaConf.create()
    OmegaConf.update(node, key, parsed)
    return node


def _merge(node: DictConfig, update: Any, schema: type, *, source: str) -> DictConfig:
    if not isinstance(update, DictConfig):
        raise UserError(f"{source}: expected `key: value` settings, found {type(update).__name__}")
    try:
        return OmegaConf.merge(node, _wrap_scalars(update, node))
    except ConfigKeyError as error:
        known = [key for key, _, _ in describe(schema)]
        raise UserError(f"{source}: unknown setting '{error.full_key}'{_nearest_key(error.full_key, known)}") from None
    except OmegaConfBaseException as error:
        raise UserError(f"{source}: {error.full_key or ''}: {_first_line(error)}") from None


def _wrap_scalars(update: DictConfig, node: DictConfig) -> DictConfig:
    """`prompts=dreambooth` means a list of one: a scalar where a list is expected is wrapped."""
    for key, value in update.items():
        expected = node._get_node(key) if key in node else None
        if isinstance(value, DictConfig) and isinstance(expected, DictConfig):
            _wrap_scalars(value, expected)
        elif _is_sequence(expected) and value is not None and not OmegaConf.is_config(value):
            update[key] = [value]
    return update


def _is_sequence(node: Any) -> bool:
    return OmegaConf.is_config(node) and not isinstance(node, DictConfig)


def _nearest_key(key: str, known: list[str]) -> str:
    """Matches the whole dotted key first, then its last part: `rank` finds `adapter.rank`."""
    by_last_part = {name.rsplit(".", 1)[-1]: name for name in known}
    if (last := key.rsplit(".", 1)[-1]) in by_last_part:
        return f"; did you mean '{by_last_part[last]}'?"
    return nearest_name(key, known).partition("; known:")[0] or "; --help lists every setting"


def _writable(node: DictConfig | ListConfig) -> DictConfig:
    """Frozen dataclasses become read-only nodes; merging needs them writable until the object is built."""
    OmegaConf.set_readonly(node, False)
    if isinstance(node, DictConfig):
        for key in node:
            child = node._get_node(key)
            if OmegaConf.is_config(child) and not child._is_none():
                _writable(child)
    return node


def _field_docs(schema: type) -> dict[str, str]:
    """Returns {field: the string literal that follows it in the source}."""
    body = ast.parse(textwrap.dedent(inspect.getsource(schema))).body[0].body
    docs = {}
    for statement, following in itertools.pairwise(body):
        if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr):
            docs[statement.target.id] = " ".join(str(following.value.value).split())
    return docs


def _show_default(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, tuple):
        return "[" + ", ".join(map(str, value)) + "]"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
