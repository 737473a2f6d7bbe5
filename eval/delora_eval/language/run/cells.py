"""One cell from its settings to its result: fine-tune, score once, keep what is to be kept."""

import time
from pathlib import Path
from typing import Any

import torch

from delora_eval.language.folder import Result, TableFolder
from delora_eval.language.grid import Cell
from delora_eval.language.metrics import METRICS, REPORTED, item_error, score_predictions
from delora_eval.language.run.harness import score_causal
from delora_eval.language.settings import BenchmarksConfig
from delora_eval.language.splits import PROTOCOLS, split_indices
from delora_sd.config.load import to_yaml
from delora_sd.files.contents import hash_file_once
from delora_sd.files.run_folder import write_text
from delora_sd.files.versions import package_version
from delora_sd.language.data.glue import load_glue
from delora_sd.language.models.attach import merge
from delora_sd.language.models.bases import (
    LanguageBase,
    default_device,
    find_language_base,
    load_causal,
    load_tokenizer,
)
from delora_sd.language.models.files import save_adapted
from delora_sd.language.training.tune import Tuned, tune_causal, tune_classifier

PACKAGES = ("torch", "transformers", "peft", "datasets", "lm_eval", "scikit-learn", "scipy")
WORK = "work"
"""Checkpoints of an unfinished cell; gone when it is finished."""


def run_glue_cell(folder: TableFolder, cell: Cell, *, keeps_adapter: bool) -> Result:
    """Returns the test scores of the epoch that is best on the validation half; the test half is asked once."""
    started, training, task = time.monotonic(), cell.training, cell.training.task
    sets = load_glue(task, training.data, is_offline=training.model.offline)
    parts = split_indices(task, len(sets["validation"]), protocol=cell.protocol, seed=training.seed)
    decides = METRICS[task][0] if PROTOCOLS[cell.protocol].chosen_by == "first" else REPORTED[task]
    tuned = tune_classifier(
        training,
        {"train": sets["train"], "validation": sets["validation"].select(parts["validation"])},
        _prepare(folder, cell),
        score=lambda found: score_predictions(task, found.predictions, found.label_ids),
        decides=decides,
    )
    outputs, labels = tuned.predict(sets["validation"].select(parts["test"]))
    error = item_error(task, outputs, labels, metric=REPORTED[task], seed=training.seed)
    best = max(line[f"eval_{decides}"] for line in tuned.history if f"eval_{decides}" in line)
    return _finish(
        folder, cell, tuned, keeps_adapter=keeps_adapter,
        scores=score_predictions(task, outputs, labels), errors={REPORTED[task]: error}, chosen_by=best,
        num_items=len(labels), seconds=time.monotonic() - started,
    )  # fmt: skip


def run_instructions_cell(
    folder: TableFolder, cell: Cell, benchmarks: BenchmarksConfig, *, keeps_adapter: bool
) -> Result:
    """Returns the benchmarks' scores of the merged model, or of the base as it is."""
    started = time.monotonic()
    if cell.is_base:
        return _score_base(folder, cell, benchmarks)
    tuned = tune_causal(cell.training, _prepare(folder, cell))
    if keeps_adapter and cell.training.adapter.method != "full":
        save_adapted(tuned.adapted, folder.cell(cell), base=tuned.base.name)
    lowest = min(line["eval_loss"] for line in tuned.history if "eval_loss" in line)
    found = score_causal(merge(tuned.adapted).eval(), tuned.tokenizer, benchmarks)
    return _finish(
        folder, cell, tuned, keeps_adapter=False, scores=found.scores, errors=found.errors, chosen_by=-lowest,
        num_items=None, seconds=time.monotonic() - started, task_versions=found.versions,
    )  # fmt: skip


def weights_hash(base: LanguageBase) -> str:
    """Returns what the base's weights are known by; a file that stays is read once."""
    hashes = [hash_file_once(file) for file in sorted(base.folder.glob("*.safetensors"))]
    return hashes[0] if len(hashes) == 1 else "+".join(value[:12] for value in hashes)


def _prepare(folder: TableFolder, cell: Cell) -> Path:
    write_text(folder.cell(cell) / "config.yaml", to_yaml(cell.training))
    return folder.cell(cell) / WORK


def _score_base(folder: TableFolder, cell: Cell, benchmarks: BenchmarksConfig) -> Result:
    started, device = time.monotonic(), default_device()
    base = find_language_base(cell.training.model, is_causal=True)
    _prepare(folder, cell)
    model = load_causal(base, cell.training.model, device).to(device).eval()
    found = score_causal(model, load_tokenizer(base), benchmarks)
    return Result(
        scores=found.scores, errors=found.errors, chosen_by=None, num_items=None, num_parameters=0,
        seconds=time.monotonic() - started, weights=weights_hash(base), versions=_versions(),
        task_versions=found.versions, device=_device_name(device),
    )  # fmt: skip


def _finish(
    folder: TableFolder, cell: Cell, tuned: Tuned, *, keeps_adapter: bool, scores: dict[str, float],
    errors: dict[str, float], chosen_by: float, num_items: int | None, seconds: float,
    task_versions: dict[str, Any] | None = None,
) -> Result:  # fmt: skip
    if keeps_adapter and cell.training.adapter.method != "full":
        save_adapted(tuned.adapted, folder.cell(cell), base=tuned.base.name)
    return Result(
        scores=scores, errors=errors, chosen_by=chosen_by, num_items=num_items, num_parameters=tuned.num_parameters,
        seconds=seconds, weights=weights_hash(tuned.base), versions=_versions(), task_versions=task_versions or {},
        device=_device_name(default_device()), history=_curve(tuned.history),
    )  # fmt: skip


def _curve(history: list[dict[str, float]]) -> list[dict[str, float]]:
    """The Trainer's log without what differs between two equal runs: how fast they were."""
    clocks = ("runtime", "per_second", "total_flos")
    return [{name: value for name, value in line.items() if not name.endswith(clocks)} for line in history]


def _versions() -> dict[str, str | None]:
    return {name: package_version(name) for name in PACKAGES}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)
