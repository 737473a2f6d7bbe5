"""Whatever can be known to fail is said before anything is trained."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from delora_eval.language.folder import TableFolder
from delora_eval.language.grid import Cell
from delora_eval.language.metrics import METRICS
from delora_eval.language.run.cells import weights_hash
from delora_eval.language.settings import LanguageConfig
from delora_eval.language.splits import split_indices
from delora_sd.adapters.attach import check_layers
from delora_sd.errors import UserError
from delora_sd.files.run_folder import check_length
from delora_sd.language.data.glue import load_glue
from delora_sd.language.data.instructions import load_instructions
from delora_sd.language.data.packages import need
from delora_sd.language.data.tasks import TASKS
from delora_sd.language.models.bases import find_language_base, shapes_only
from delora_sd.language.models.families import target_names
from delora_sd.language.settings import LanguageModelConfig
from delora_sd.language.training.tune import check_training
from delora_sd.settings import AdapterConfig

NEEDED = {"glue": ("datasets", "sklearn.metrics", "scipy.stats"), "instructions": ("datasets", "lm_eval")}
NUM_SMALLEST_HALF = 8


def check_table(config: LanguageConfig, cells: Iterable[Cell]) -> None:
    """Raises UserError for missing packages, bases, layers, data, splits, and settings that do not fit each other.

    Bases and data are fetched for it.
    """
    for package in NEEDED[config.table]:
        need(package)
    if config.table == "glue" and config.choose == "benchmarks":
        raise UserError("choose: GLUE is chosen on its validation half; benchmarks is for table=instructions")
    _check_shapes(cells)
    seen = set()
    for cell in cells:
        training = cell.training
        check_training(training)
        what = (training.task, training.data, training.model.offline)
        if what not in seen:
            seen.add(what)
            _check_data(cell)


def check_folder(config: LanguageConfig, cells: Iterable[Cell]) -> TableFolder:
    """Returns the table's folder. Raises UserError without one, or when its cells were made from other weights."""
    if not config.output_dir:
        raise UserError("output_dir: missing; give the table a folder, such as output_dir=runs/glue")
    folder = TableFolder(Path(config.output_dir).expanduser())
    check_length(folder.path, setting="output_dir")
    for cell in cells:
        result = folder.read_result(cell)
        if result is None:
            continue
        base = find_language_base(cell.training.model, is_causal=cell.training.task not in TASKS)
        if (found := weights_hash(base)) != result.weights:
            raise UserError(
                f"model.base={base.name} has the weights {found[:12]}, {folder.cell(cell)} was made from "
                f"{result.weights[:12]}; use another output_dir"
            )
    return folder


def _check_shapes(cells: Iterable[Cell]) -> None:
    """Every adapter against its base's layers, by shapes alone."""
    seen: set[tuple[LanguageModelConfig, bool, str]] = set()
    for cell in cells:
        is_causal = cell.training.task not in TASKS
        key = (cell.training.model, is_causal, repr(cell.training.adapter))
        if key in seen or cell.is_base:
            continue
        seen.add(key)
        base = find_language_base(cell.training.model, is_causal=is_causal)
        check_layers(named(cell.training.adapter, base.config), shapes_only(base.config, is_causal=is_causal))


def named(adapter: AdapterConfig, model_config: object) -> AdapterConfig:
    """Returns the settings with the family's layers, where none were named."""
    return replace(adapter, target_modules=target_names(model_config, adapter.target_modules))


def _check_data(cell: Cell) -> None:
    training, is_offline = cell.training, cell.training.model.offline
    if training.task not in METRICS:
        load_instructions(training.data, is_offline=is_offline)
        return
    sets = load_glue(training.task, training.data, is_offline=is_offline)
    halves = split_indices(training.task, len(sets["validation"]), protocol=cell.protocol, seed=training.seed)
    smallest = min(map(len, halves.values()))
    if smallest < NUM_SMALLEST_HALF:
        raise UserError(
            f"data.glue={training.data.glue}: {training.task} has {len(sets['validation'])} validation examples; "
            f"a half of {smallest} says nothing"
        )
