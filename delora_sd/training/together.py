"""`delora-sd pack RUN RUN ...`: runs that lie in folders of their own, trained in as few batches as memory allows."""

import warnings
from dataclasses import replace
from pathlib import Path

from delora_sd.adapters.attach import is_packable
from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import TrainConfig
from delora_sd.training.before.door import check_pack
from delora_sd.training.memory.pack_size import fit_pack, measure_pack_memory
from delora_sd.training.recipe import TrainResult, train_pack
from delora_sd.training.settings import PackConfig


def train_together(config: PackConfig) -> list[TrainResult]:
    """Returns how the runs ended, in their order; the same call again resumes.

    Raises:
        UserError: a folder without config.yaml, runs that cannot share a pack, or runs that gave up.
    """
    configs = [_planned(name) for name in config.runs]
    if not configs:
        raise UserError("runs: missing; give run folders, such as `delora-sd pack runs/rex runs/tom`")
    check_pack(configs)
    if len(configs) > 1 and not is_packable(configs[0].adapter.method):
        raise UserError(f"adapter.method={configs[0].adapter.method} cannot be packed; train the runs one by one")
    size = 1 if len(configs) == 1 else fit_pack(len(configs), measure_pack_memory(configs), say=_warn)
    packs = [configs[start : start + size] for start in range(0, len(configs), size)]
    results = [result for pack in packs for result in train_pack(pack)]
    failed = [f"{result.run.path}: {result.failure}" for result in results if result.failure]
    if failed:
        raise UserError("; ".join(failed))
    return results


def _planned(name: str) -> TrainConfig:
    """Returns a run's settings; the folder is where it lies now, wherever it lay when they were written."""
    run = RunFolder(Path(name).expanduser())
    if not run.config.is_file():
        raise UserError(f"runs: {name} has no config.yaml; `delora-sd train` begins a run")
    run.check_version()
    return replace(read_run_settings(run.config), output_dir=str(run.path))


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=2)
