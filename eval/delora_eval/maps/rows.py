"""The rows of a table on maps: from settings to trainings, and what is done before any of it starts."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delora_eval.maps.settings import MapBenchmarkConfig
from delora_sd.config.overlay import with_settings
from delora_sd.data.subjects import is_plain_name
from delora_sd.errors import UserError
from delora_sd.maps.door import check_map_config
from delora_sd.maps.settings import MapTrainConfig

REAL, NO_CONTROL = "real", "no_control"
"""Rows that no training makes."""

LABEL, NOTE = "label", "note"
"""Keys of a row that are no settings."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One trained row; `trainings` has one entry per factor on its rate."""

    name: str
    label: str
    note: str
    trainings: Mapping[float, MapTrainConfig]

    def run_of(self, factor: float) -> Path:
        return Path(self.trainings[factor].output_dir)


def read_rows(config: MapBenchmarkConfig) -> list[Row]:
    """Returns the trained rows in their order.

    Raises:
        UserError: no rows, a name that is taken or no file name, settings that no training could satisfy, or a search
            without a rate to search around.
    """
    if not config.output_dir:
        raise UserError("output_dir: missing; give a folder, such as output_dir=runs/table2")
    if not config.rows:
        raise UserError("rows: none; give {name: {label: ..., adapter.method: ...}}")
    for factor in config.search:
        if not factor > 0:
            raise UserError(f"search: {factor}; expected factors above 0 on each row's optimizer.lr")
    return [_read_row(config, name, given) for name, given in config.rows.items()]


def shared_training(config: MapBenchmarkConfig) -> MapTrainConfig:
    """Returns what all trainings have in common."""
    return with_settings(MapTrainConfig(), config.train, source="train")


def _read_row(config: MapBenchmarkConfig, name: str, given: dict[str, Any]) -> Row:
    if name in (REAL, NO_CONTROL) or not is_plain_name(name):
        raise UserError(f"rows.{name}: {REAL} and {NO_CONTROL} are always there; a row's name is a plain file name")
    settings = {key: value for key, value in given.items() if key not in (LABEL, NOTE)}
    row = with_settings(shared_training(config), settings, source=f"rows.{name}")
    if config.search and row.optimizer.lr is None:
        raise UserError(f"rows.{name}: search needs the optimizer.lr that its factors multiply")
    trainings = {factor: _training(config, name, row, factor) for factor in config.search or (1.0,)}
    for training in trainings.values():
        check_map_config(training)
    return Row(name=name, label=given.get(LABEL, name), note=given.get(NOTE, ""), trainings=trainings)


def _training(config: MapBenchmarkConfig, name: str, row: MapTrainConfig, factor: float) -> MapTrainConfig:
    tail = f"-x{factor:g}" if config.search else ""
    folder = Path(config.output_dir).expanduser() / "runs" / f"{name}{tail}"
    if not config.search:
        return replace(row, output_dir=str(folder))
    optimizer = replace(row.optimizer, lr=row.optimizer.lr * factor)
    return replace(row, output_dir=str(folder), optimizer=optimizer)
