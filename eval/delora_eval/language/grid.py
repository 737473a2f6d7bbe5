"""The cells of a language table: method x setting x task x seed, resolved and checked before anything loads."""

import hashlib
import itertools
import json
import re
from dataclasses import dataclass, replace
from typing import Any

from delora_eval.language.settings import LanguageConfig
from delora_sd.config.load import flatten, to_dict
from delora_sd.config.overlay import with_settings
from delora_sd.errors import UserError
from delora_sd.language.data.tasks import INSTRUCTIONS, TASKS, check_task
from delora_sd.language.settings import LanguageTraining
from delora_sd.language.training.optimization import learning_rate

BASE = "base"
"""The untouched model: a row of the instructions' table."""

OWN_KEYS = ("label", "tasks", "tune", "scaled")
DECIDED_BY_THE_GRID = ("seed", "task")
LEARNING_RATE = "tuning.lr"

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_+]*")

Settings = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One entry of `methods:`."""

    name: str
    label: str
    settings: Settings
    by_task: dict[str, Settings]
    tune: tuple[Settings, ...]
    """Points to choose from; ({},): nothing is searched."""
    scaled: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One fine-tuning, or the base model as it is."""

    entry: Entry
    point: int
    """Which of the entry's `tune`."""
    factor: float | None
    training: LanguageTraining
    protocol: str
    asked: Settings
    """What decides the answers of the benchmarks; {} for GLUE."""

    @property
    def name(self) -> str:
        """Folder of the cell: readable, and another for every difference in what is computed."""
        what = {
            "training": _decisive(self.training),
            "protocol": self.protocol,
            "asked": self.asked,
            "base": self.is_base,
        }
        digest = hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()[:8]
        return f"{self.entry.name}-{self.training.task}-s{self.training.seed}-{digest}"

    @property
    def is_base(self) -> bool:
        return self.entry.name == BASE


def read_entries(config: LanguageConfig) -> list[Entry]:
    """Returns the entries of `methods:` in order.

    Raises:
        UserError: unknown task, method or setting (names the nearest), one that the grid decides, no cells.
    """
    if config.table == "glue":
        for task in config.tasks:
            check_task(task)
    for key, values in (("methods", config.methods), ("seeds", config.seeds), ("tasks", config.tasks)):
        if not values:
            raise UserError(f"{key}: empty; a table of 0 cells")
    if len(set(config.seeds)) < len(config.seeds) or len(set(config.tasks)) < len(config.tasks):
        raise UserError("seeds and tasks: one is given twice")
    _dotted(config.train, where="train")
    return [_read_entry(name, value, config) for name, value in _by_name(config.methods).items()]


def search_cells(config: LanguageConfig, entries: list[Entry]) -> list[Cell]:
    """Returns the cells from which `tune` chooses: every point once, with the first seed."""
    return [
        _cell(config, entry, task, config.seeds[0], point=point)
        for entry in entries
        if len(entry.tune) > 1
        for point in range(len(entry.tune))
        for task in tasks_of(config)
    ]


def table_cells(config: LanguageConfig, entries: list[Entry], chosen: dict[tuple[str, str], int]) -> list[Cell]:
    """Returns the table's cells; `chosen` is {(method, task): point} of what was searched."""
    factors = config.factors or (None,)
    cells = [
        _cell(config, entry, task, seed, point=chosen.get((entry.name, task), 0), factor=factor)
        for entry, factor, task, seed in itertools.product(entries, factors, tasks_of(config), config.seeds)
    ]
    return [base_cell(config), *cells] if config.table == "instructions" else cells


def base_cell(config: LanguageConfig) -> Cell:
    entry = Entry(name=BASE, label="base", settings={}, by_task={}, tune=({},), scaled=())
    return _cell(config, entry, INSTRUCTIONS, config.seeds[0], point=0)


def tasks_of(config: LanguageConfig) -> tuple[str, ...]:
    return config.tasks if config.table == "glue" else (INSTRUCTIONS,)


def _cell(
    config: LanguageConfig, entry: Entry, task: str, seed: int, *, point: int, factor: float | None = None
) -> Cell:
    settings = _dotted(config.train, where="train") | entry.settings | entry.by_task.get(task, {}) | entry.tune[point]
    training = with_settings(LanguageTraining(), settings, source=f"methods.{entry.name}")
    if factor is not None:
        training = _scaled(training, entry, factor)
    benchmarks = config.benchmarks
    asked = {"tasks": benchmarks.tasks, "limit": benchmarks.limit, "adds_bos": benchmarks.adds_bos}
    return Cell(
        entry=entry,
        point=point,
        factor=factor,
        training=replace(training, seed=seed, task=task),
        protocol=config.protocol if task in TASKS else "",
        asked={} if task in TASKS else asked,
    )


def _scaled(training: LanguageTraining, entry: Entry, factor: float) -> LanguageTraining:
    values = flatten(training) | {LEARNING_RATE: learning_rate(training.adapter.method, training.tuning)}
    for key in entry.scaled:
        if not isinstance(values.get(key), int | float) or isinstance(values[key], bool):
            raise UserError(f"methods.{entry.name}.scaled: `factors` multiply {key}, which is {values.get(key)}")
    scaled = {key: values[key] * factor for key in entry.scaled}
    return with_settings(training, scaled, source=f"methods.{entry.name}.scaled")


def _decisive(training: LanguageTraining) -> Settings:
    """What decides the result; where a model is looked for, and how many are scored at once, does not."""
    values = to_dict(training)
    values["model"].pop("offline")
    values["tuning"].pop("eval_batch_size")
    return values


def _read_entry(name: str, value: Any, config: LanguageConfig) -> Entry:
    where = f"methods.{name}"
    if not _NAME.fullmatch(name) or name == BASE:
        raise UserError(f"{where}: a method's name is letters, digits, '_', '+', and not 'base'; give `label` instead")
    if not isinstance(value, dict | None):
        raise UserError(f"{where}: expected settings such as {{adapter.rank: 4}}, found {value!r}")
    value = value or {}
    own = {key: value[key] for key in OWN_KEYS if key in value}
    settings = _dotted({key: item for key, item in value.items() if key not in own}, where=where)
    settings.setdefault("adapter.method", name)
    by_task = own.get("tasks") or {}
    for task in by_task:
        check_task(task)
    return Entry(
        name=name,
        label=str(own.get("label", name)),
        settings=settings,
        by_task={task: _dotted(item, where=f"{where}.tasks.{task}") for task, item in by_task.items()},
        tune=_points(own.get("tune") or {}, f"{where}.tune"),
        scaled=tuple(own.get("scaled", config.scaled)),
    )


def _points(lists: Any, where: str) -> tuple[Settings, ...]:
    if not isinstance(lists, dict) or not all(isinstance(values, list) and values for values in lists.values()):
        raise UserError(f"{where}: expected {{setting: [values]}}, found {lists!r}")
    points = tuple(dict(zip(lists, values, strict=True)) for values in itertools.product(*lists.values()))
    return tuple(_dotted(point, where=where) for point in points)


def _dotted(settings: Any, *, where: str) -> Settings:
    """Returns nested or dotted settings as {dotted key: value}, checked; of one given twice the later counts."""
    if not isinstance(settings, dict):
        raise UserError(f"{where}: expected settings such as {{tuning.lr: 1e-3}}, found {settings!r}")
    flat = _flat(settings)
    with_settings(LanguageTraining(), flat, source=where)
    for key in DECIDED_BY_THE_GRID:
        if key in flat:
            raise UserError(f"{where}: {key} is decided by the grid; use `tasks` and `seeds`")
    return flat


def _flat(settings: Settings, prefix: str = "") -> Settings:
    flat: Settings = {}
    for name, value in settings.items():
        key = f"{prefix}{name}"
        is_section = isinstance(value, dict) and key not in flatten(LanguageTraining())
        flat |= _flat(value, f"{key}.") if is_section else {key: value}
    return flat


def _by_name(methods: Settings) -> Settings:
    """`methods.delora.adapter.rank=4` on the command line becomes a setting of the entry `delora`."""
    entries: Settings = {}
    for key, value in methods.items():
        name, dot, setting = key.partition(".")
        entries[name] = {**(entries.get(name) or {}), setting: value} if dot else value
    return entries
