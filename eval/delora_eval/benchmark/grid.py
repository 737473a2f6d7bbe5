"""A benchmark's settings become cells: method x subject x seed x setting, each with an id that says what decides it."""

import hashlib
import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from delora_eval.benchmark.methods import MethodEntry, Point, dotted, read_methods, resolve
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.config.deciding import differing_settings, differing_values
from delora_sd.config.load import flatten
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.run_folder import RUN_FOLDER_ROOM, check_length
from delora_sd.settings import TrainConfig

_SETTINGS_OF_FULL_IDS = {
    "model": "base revision dtype quantization size_px",
    "data": "subject dataset photos class_word is_live identifier instance_template class_template",
    "adapter": "method rank boundary boundary_unit alpha weight_norm init train_magnitude target_modules rank_pattern "
    "boundary_pattern num_blocks peft_config",
    "training": "num_steps batch_size gradient_accumulation gradient_checkpointing compile prior_weight "
    "num_class_images allow_tf32",
    "optimizer": "name lr boundary_lr weight_decay betas eps clip_norm schedule warmup_steps",
}
"""The first edition made ids of the values of all of these and of `seed`."""

CELLS = "cells"
"""Where the run folders of a benchmark are."""

EXPORT_CHECK = "training.export_check"

SHARED_BY_A_TABLE = ("model.base", "model.revision", "model.quantization", "data.dataset")
"""Numbers beside each other mean something only when these are the same."""

_FIRST = re.compile(r"first\s+(\d+)")


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One training and its images: a run folder under `cells/`."""

    id: str
    """`<method>-<subject>-s<seed>-<hash>`; the hash covers what decides the adapter (`training_hash`)."""
    method: str
    subject: str
    seed: int
    setting: Point = field(default_factory=dict)
    steps: tuple[int, ...] = ()
    """Checkpoints that are scored, ascending; 0 is the base model. (): images made elsewhere."""
    path: str | None = None
    """Folder of images made elsewhere, one folder per subject; none: a training."""
    prompts: str | None = None
    train: TrainConfig | None = None
    """None: images made elsewhere, or a plan read back for a report."""

    def folder(self, output_dir: Path) -> Path:
        return output_dir / CELLS / self.id

    @cached_property
    def row(self) -> str:
        """What the seeds and subjects of one table row share: method and setting."""
        return row_name(self.method, self.setting)


def row_name(method: str, setting: Point) -> str:
    """Returns the name of a table row, `delora[optimizer.lr=0.02]`."""
    inner = ",".join(f"{key}={json.dumps(value)}" for key, value in sorted(setting.items()))
    return f"{method}[{inner}]" if inner else method


def tune_cells(config: BenchmarkConfig) -> list[Cell]:
    """Returns the cells of the search, [] when nothing is searched."""
    entries = [entry for entry in read_methods(config) if entry.tune_points]
    subjects = choose_subjects(config.tune.subjects, config, key="tune.subjects") if entries else ()
    return _expand(config, [(entry, entry.tune_points) for entry in entries], subjects, config.tune.seeds)


def test_cells(config: BenchmarkConfig, chosen: dict[str, Point] | None = None) -> list[Cell]:
    """Returns the cells of the table; `chosen` holds what the search found per method (none yet: own settings).

    Raises:
        UserError: no cells, unknown names, several base models in one table, a step that is no checkpoint.
    """
    entries = read_methods(config)
    subjects = choose_subjects(config.subjects, config, key="subjects") if entries else ()
    found = chosen or {}
    rows = [(entry, tuple(found.get(entry.name, {}) | point for point in entry.points)) for entry in entries]
    cells = _expand(config, rows, subjects, config.seeds)
    if not cells and not config.weight_norms:
        empty = next((key for key in ("methods", "subjects", "seeds") if not getattr(config, key)), "methods")
        raise UserError(f"the grid has 0 cells: {empty} is empty; give at least one")
    _check_one_table(cells)
    return cells


def choose_subjects(wanted: tuple[str, ...], config: BenchmarkConfig, *, key: str) -> tuple[str, ...]:
    """Returns subject names: those given, `all`, or `first N` of the alphabetical list; each once.

    Raises:
        UserError: a name the dataset does not have (names the nearest).
    """
    settings = dotted(config.train, where="train")
    if settings.get("data.photos"):
        return (Path(settings["data.photos"]).expanduser().resolve().name,)
    known = _subject_names(settings.get("data.dataset", TrainConfig().data.dataset))
    names: list[str] = []
    for word in wanted:
        first = _FIRST.fullmatch(word.strip())
        if word == "all":
            names += known
        elif first:
            names += known[: int(first[1])]
        elif word in known:
            names.append(word)
        else:
            raise UserError(f"{key}: unknown subject '{word}'{nearest_name(word, known)} (or `all`, `first N`)")
    return tuple(dict.fromkeys(names))


def begun_cells(output_dir: Path) -> frozenset[str]:
    """Returns the ids of the cells that have a folder, read at one go: the others have nothing to be asked for."""
    if not (output_dir / CELLS).is_dir():
        return frozenset()
    with os.scandir(output_dir / CELLS) as entries:
        return frozenset(entry.name for entry in entries if entry.is_dir())


def training_hash(train: TrainConfig) -> str:
    """Returns the hash in a cell's id: of what decides the adapter and differs from the first defaults.

    A setting that is added, or a default that is changed, leaves every other cell its id (`config.deciding`).
    """
    return _hash(differing_settings(train))


def full_hash(train: TrainConfig) -> str | None:
    """Returns the hash the first edition gave this training; None when that edition could not have done it."""
    return _Identity(train).full_hash({})


class _Identity:
    """The settings that name the cells of one row, laid flat once: only subject and seed change from cell to cell."""

    def __init__(self, train: TrainConfig):
        names = {f"{section}.{name}" for section, names in _SETTINGS_OF_FULL_IDS.items() for name in names.split()}
        flat = flatten(train)
        self._differing = differing_values(flat)
        self._full = {key: value for key, value in flat.items() if key in names | {"seed"}}
        self._is_of_the_first_edition = self._differing.keys() <= self._full.keys()

    def training_hash(self, own: dict[str, Any]) -> str:
        """Returns `training_hash` of the row's training with the cell's own subject and seed."""
        kept = {key: value for key, value in self._differing.items() if key not in own}
        return _hash(kept | differing_values(own))

    def full_hash(self, own: dict[str, Any]) -> str | None:
        """Returns `full_hash` of the same."""
        return _hash(self._full | own) if self._is_of_the_first_edition else None


def _expand(
    config: BenchmarkConfig,
    rows: Iterable[tuple[MethodEntry, tuple[Point, ...]]],
    subjects: tuple[str, ...],
    seeds: tuple[int, ...],
) -> list[Cell]:
    cells: dict[str, Cell] = {}
    begun = begun_cells(Path(config.output_dir).expanduser()) if config.output_dir else frozenset()
    drawn: set[tuple] = set()
    for entry, points in rows:
        for point in points:
            if entry.path is not None:
                row = [_images_cell(entry, subject) for subject in subjects]
            else:
                train = resolve(entry, point)
                _check_method(entry, train)
                row = _row_cells(config, entry, point, train, subjects=subjects, seeds=seeds, begun=begun)
                row = _with_export_checks(row, entry, drawn)
                for cell in row:
                    folder = cell.folder(Path(config.output_dir).expanduser())
                    check_length(folder, setting="the folder of a cell", room=RUN_FOLDER_ROOM)
            cells |= {cell.id: cell for cell in row if cell.id not in cells}
    return list(cells.values())


def _row_cells(
    config: BenchmarkConfig,
    entry: MethodEntry,
    point: Point,
    train: TrainConfig,
    *,
    subjects: tuple[str, ...],
    seeds: tuple[int, ...],
    begun: frozenset[str],
) -> list[Cell]:
    """The cells of one row, seed by seed; what they share is worked out once."""
    identity, steps = _Identity(train), _steps(config, entry, train)
    datas = {subject: train.data if train.data.photos else replace(train.data, subject=subject) for subject in subjects}
    return [
        Cell(
            id=_id(identity, f"{entry.name}-{subject}-s{seed}", {"seed": seed, "data.subject": data.subject}, begun),
            method=entry.name,
            subject=subject,
            seed=seed,
            setting=point,
            steps=steps,
            train=replace(train, seed=seed, data=data),
        )
        for seed in dict.fromkeys(seeds)
        for subject, data in datas.items()
    ]


def _with_export_checks(row: list[Cell], entry: MethodEntry, drawn: set[tuple]) -> list[Cell]:
    """The first cell of each method draws with what it exports; tensors are enough for the others, which export alike.

    Settings that say `training.export_check` are left as they are.
    """
    if EXPORT_CHECK in entry.settings or not row:
        return row
    shared = row[0].train
    kind = (shared.model.base, shared.adapter.method, shared.adapter.init, shared.adapter.peft_config)
    training = replace(shared.training, export_check="tensors")
    quick = [replace(cell, train=replace(cell.train, training=training)) for cell in row]
    is_first = kind not in drawn
    drawn.add(kind)
    return row[:1] + quick[1:] if is_first else quick


def _id(identity: _Identity, stem: str, own: dict[str, Any], begun: frozenset[str]) -> str:
    """The cell's id: the first edition's where the folder holds work under that name."""
    if begun and f"{stem}-{identity.full_hash(own)}" in begun:
        return f"{stem}-{identity.full_hash(own)}"
    return f"{stem}-{identity.training_hash(own)}"


def _images_cell(entry: MethodEntry, subject: str) -> Cell:
    path = Path(entry.path).expanduser()
    if not path.is_dir():
        raise UserError(f"methods.{entry.name}.path={entry.path}: no such folder")
    digest = _hash({"path": str(path.resolve()), "subject": subject})
    return Cell(
        id=f"{entry.name}-{subject}-s0-{digest}",
        method=entry.name,
        subject=subject,
        seed=0,
        path=str(path),
        prompts=entry.prompts,
    )


def _hash(value: dict[str, Any]) -> str:
    """The first 8 hex digits of the SHA-256 of the value as JSON: 1 chance in 8,000 of a clash among 1,000 cells."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:8]


def _check_method(entry: MethodEntry, train: TrainConfig) -> None:
    from delora_sd.adapters.attach import check_known

    try:
        check_known(train.adapter)
    except UserError as error:
        raise UserError(f"methods.{entry.name}: {error}") from None


def _check_one_table(cells: list[Cell]) -> None:
    rows = {cell.row: cell for cell in cells if cell.train is not None}
    settings = [(cell.method, flatten(cell.train)) for cell in rows.values()]
    for key in SHARED_BY_A_TABLE:
        values = {str(flat[key]): method for method, flat in settings}
        if len(values) > 1:
            found = ", ".join(f"{value} ({method})" for value, method in values.items())
            raise UserError(f"one table needs one {key}, found {found}; run a benchmark for each")


def _steps(config: BenchmarkConfig, entry: MethodEntry, train: TrainConfig) -> tuple[int, ...]:
    training = train.training
    for step in config.steps:
        is_saved = step % training.checkpoint_every == 0 or step == training.num_steps
        if not (0 <= step <= training.num_steps and is_saved):
            raise UserError(
                f"steps: {step} is no checkpoint of {entry.name} (training.num_steps={training.num_steps}, "
                f"training.checkpoint_every={training.checkpoint_every})"
            )
    return tuple(sorted(set(config.steps))) or (training.num_steps,)


def _subject_names(dataset: str) -> tuple[str, ...]:
    from delora_sd.data.subjects import subject_names

    return subject_names(dataset)
