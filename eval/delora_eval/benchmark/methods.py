"""One entry of `methods:` in a benchmark's settings, parsed and checked; no torch, no files but presets."""

import itertools
import re
from dataclasses import dataclass
from typing import Any

from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.config.load import flatten, load_config
from delora_sd.config.overlay import with_settings
from delora_sd.errors import UserError, nearest_name
from delora_sd.settings import TrainConfig

IMAGES = "images"
"""`method: images`: images made elsewhere, judged in the same table."""

FACTOR = "factor"
"""Name of the axis that `factors` add to a setting."""

OWN_KEYS = ("label", "preset", "matrix", "tune", "scaled")
IMAGES_KEYS = ("method", "path", "prompts", "label")
DECIDED_BY_THE_GRID = ("output_dir", "seed", "data.subject")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+]*")

Point = dict[str, Any]
"""One combination of matrix values: {setting: value}, and `factor`."""


@dataclass(frozen=True, kw_only=True)
class MethodEntry:
    """A row family of the table: a training, and what varies in it."""

    name: str
    label: str
    preset: str | None
    settings: dict[str, Any]
    """{dotted training setting: value}: the grid's `train`, then the method's own."""
    points: tuple[Point, ...]
    tune_points: tuple[Point, ...]
    scaled: tuple[str, ...]
    path: str | None = None
    """`method: images`: folder with one folder of images per subject; none: a training."""
    prompts: str | None = None


def read_methods(config: BenchmarkConfig) -> list[MethodEntry]:
    """Returns the entries of `methods:` in order.

    Raises:
        UserError: unknown method or setting (names the nearest), a setting the grid decides, an empty list of values.
    """
    base = dotted(config.train, where="train")
    return [_read_entry(name, value, base, config) for name, value in _by_name(config.methods).items()]


def resolve(entry: MethodEntry, point: Point) -> TrainConfig:
    """Returns the training's settings at one point of the matrix; subject, seed and folder are still open."""
    settings = entry.settings | {key: value for key, value in point.items() if key != FACTOR}
    if FACTOR in point:
        settings |= {key: _scale(entry, key, settings.get(key), point[FACTOR]) for key in entry.scaled}
    train = load_config(TrainConfig, [entry.preset] if entry.preset else [], [])
    return with_settings(train, settings, source=f"methods.{entry.name}")


def dotted(settings: dict[str, Any], *, where: str) -> dict[str, Any]:
    """Returns nested or dotted settings as {dotted key: value}; mappings such as `rank_pattern` stay whole.

    Raises:
        UserError: unknown setting (names the nearest), wrong type, or one that the grid decides.
    """
    flat = _flat(settings)
    with_settings(TrainConfig(), flat, source=where)
    for key in DECIDED_BY_THE_GRID:
        if key in flat:
            raise UserError(f"{where}: {key} is decided by the grid; use `subjects`, `seeds` and `output_dir`")
    return flat


def _flat(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        is_section = isinstance(value, dict) and key not in flatten(TrainConfig())
        flat |= _flat(value, f"{key}.") if is_section else {key: value}
    return flat


def _by_name(methods: dict[str, Any]) -> dict[str, Any]:
    """`methods.delora.adapter.rank=4` on the command line becomes a setting of the entry `delora`."""
    entries: dict[str, Any] = {}
    for key, value in methods.items():
        name, dot, setting = key.partition(".")
        entries[name] = {**(entries.get(name) or {}), setting: value} if dot else value
    return entries


def _read_entry(name: str, value: Any, base: dict[str, Any], config: BenchmarkConfig) -> MethodEntry:
    where = f"methods.{name}"
    if not _NAME.fullmatch(name):
        raise UserError(
            f"{where}: a method's name is made of letters, digits, '_', '.', '+'; give `label` for the table"
        )
    if not isinstance(value, dict | None):
        raise UserError(f"{where}: expected settings such as {{adapter.rank: 4}}, found {value!r}")
    value = value or {}
    if value.get("method") == IMAGES:
        return _read_images(name, value)
    own = {key: value[key] for key in OWN_KEYS if key in value}
    settings = base | _name_the_method(name, value, own, where)
    matrix = _matrix(own.get("matrix", config.matrix), f"{where}.matrix" if "matrix" in own else "matrix")
    search = _matrix(own.get("tune", config.tune.matrix), f"{where}.tune" if "tune" in own else "tune.matrix")
    return MethodEntry(
        name=name,
        label=str(own.get("label", name)),
        preset=own.get("preset"),
        settings=settings,
        points=_points(matrix, config.factors),
        tune_points=_points(search, ()) if search or config.tune.matrix else (),
        scaled=_names(own.get("scaled", config.scaled), where),
    )


def _name_the_method(name: str, value: dict[str, Any], own: dict[str, Any], where: str) -> dict[str, Any]:
    """The entry's training settings; a bare name is the method itself."""
    settings = dotted({key: item for key, item in value.items() if key not in own}, where=where)
    if "adapter.method" not in settings and "preset" not in own:
        settings["adapter.method"] = name
    return settings


def _read_images(name: str, value: dict[str, Any]) -> MethodEntry:
    unknown = next((key for key in value if key not in IMAGES_KEYS), None)
    if unknown:
        raise UserError(f"methods.{name}: unknown setting '{unknown}'{nearest_name(unknown, IMAGES_KEYS)}")
    if not value.get("path"):
        raise UserError(f"methods.{name}: `method: images` needs `path`, a folder with one folder per subject")
    return MethodEntry(
        name=name,
        label=str(value.get("label", name)),
        preset=None,
        settings={},
        points=({},),
        tune_points=(),
        scaled=(),
        path=str(value["path"]),
        prompts=value.get("prompts"),
    )


def _matrix(matrix: Any, where: str) -> dict[str, list[Any]]:
    """Returns {dotted setting: values}; one value stands for a list of one."""
    if not isinstance(matrix, dict):
        raise UserError(f"{where}: expected {{setting: [values]}}, found {matrix!r}")
    lists = {key: value if isinstance(value, list) else [value] for key, value in _flat(matrix).items()}
    for key, values in lists.items():
        if not values:
            raise UserError(f"{where}.{key}: an empty list of values makes a grid of 0 cells")
        for value in values:
            dotted({key: value}, where=where)
    return lists


def _points(matrix: dict[str, list[Any]], factors: tuple[float, ...]) -> tuple[Point, ...]:
    axes = matrix | ({FACTOR: list(factors)} if factors else {})
    return tuple(dict(zip(axes, values, strict=True)) for values in itertools.product(*axes.values()))


def _scale(entry: MethodEntry, key: str, value: Any, factor: float) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool):
        found = "left at its default" if value is None else f"{value!r}"
        raise UserError(f"methods.{entry.name}: `factors` multiply {key}, which is {found}; write its base value out")
    return value * factor


def _names(value: Any, where: str) -> tuple[str, ...]:
    names, known = (value,) if isinstance(value, str) else tuple(value), tuple(flatten(TrainConfig()))
    for name in names:
        if name not in known:
            raise UserError(f"{where}.scaled: unknown setting '{name}'{nearest_name(name, known)}")
    return names
