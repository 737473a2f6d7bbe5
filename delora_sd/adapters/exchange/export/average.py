"""`delora-sd average`: the kept checkpoints of a run, weighted by a power function of the step, as one more adapter.

The profile is Karras et al. 2024 (arXiv:2312.02696), Sec. 3.1: p(t) ~ t^gamma. They reconstruct it from averages stored
while training; here the checkpoints themselves are weighted, each for the steps since the one before. With a checkpoint
at every step that is their average exactly; with fewer it is its Riemann sum, and needs nothing but the run.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from delora_sd.adapters.exchange.settings import AverageConfig
from delora_sd.adapters.exchange.stored.formats import load_adapter, save_adapter
from delora_sd.adapters.lowrank.adapter import Adapter
from delora_sd.adapters.lowrank.averaging import averaged_form
from delora_sd.adapters.lowrank.methods import METHODS, Tensors, trained_names
from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder

WIDEST = 12**-0.5
"""Of the mean of all: the standard deviation of a uniform density on 0..1, gamma = 0."""

_TAKEN = ("adapter", "base", "ema", "final")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]{0,59}")


def average_checkpoints(config: AverageConfig) -> tuple[Path, dict[int, float]]:
    """Writes the average into the run's `averages/`; returns (its folder, {step: weight}).

    Raises:
        UserError: no run, a method not of the family, fewer than two checkpoints, a width or name that cannot be.
    """
    run = _checked_run(config)
    steps = _steps(run, config.until)
    folder = run.averages / _name(config, steps)
    if folder.exists():
        raise UserError(f"name: {folder} exists; give a new name, or delete it")
    weights = dict(zip(steps, profile_weights(steps, exponent_of(config.width)), strict=True))
    base = read_run_settings(run.config).model.base
    save_adapter(_mean([(run.checkpoint(step) / "adapter", weights[step]) for step in steps]), folder, base=base)
    return folder, weights


def exponent_of(width: float) -> float:
    """Returns gamma of p(t) ~ t^gamma with that standard deviation on 0..1 (NVlabs/edm2, training/phema.py).

    sigma_rel = (gamma + 1)^(1/2) (gamma + 2)^(-1) (gamma + 3)^(-1/2).
    """
    square = width**-2
    return float(max(0.0, np.roots([1, 7, 16 - square, 12 - square]).real.max()))


def profile_weights(steps: Sequence[int], exponent: float) -> list[float]:
    """Returns each step's share of the profile: what t^gamma holds between the step before and itself."""
    ends = np.array([0, *steps], dtype=np.float64) / steps[-1]
    return np.diff(ends ** (exponent + 1)).tolist()


@torch.no_grad()
def _mean(checkpoints: Sequence[tuple[Path, float]]) -> Adapter:
    """Returns the weighted mean of adapters of one training, summed in float64; frozen tensors are the last one's."""
    sums: dict[str, Tensors] = {}
    for folder, weight in checkpoints:
        adapter = load_adapter(folder)
        trained = trained_names(adapter.config)
        for layer, tensors in adapter.layer_tensors().items():
            into = sums.setdefault(layer, {})
            for name in trained:
                value = averaged_form(adapter.config.method, name, tensors[name]).double() * weight
                into[name] = into[name] + value if name in into else value
    layers = adapter.layer_tensors()
    means = {
        layer: tensors | {name: sums[layer][name].float() for name in trained} for layer, tensors in layers.items()
    }
    return Adapter(adapter.config, adapter.specs(), means)


def _checked_run(config: AverageConfig) -> RunFolder:
    if not config.run:
        raise UserError("run: missing; give a run folder, such as runs/rex")
    if not 0 < config.width <= WIDEST:
        raise UserError(f"width: {config.width}; expected above 0 to {WIDEST:.3f}, such as 0.05, 0.1 or 0.2")
    run = RunFolder(Path(config.run).expanduser())
    if not run.config.is_file():
        raise UserError(f"run={config.run}: no run folder there (no {run.config.name})")
    run.check_version()
    method = read_run_settings(run.config).adapter.method
    if method not in METHODS:
        raise UserError(f"run={config.run}: {method} cannot be averaged afterwards; train it with training.ema.decay")
    return run


def _steps(run: RunFolder, until: int | None) -> list[int]:
    kept = run.checkpoint_steps()
    known = ", ".join(map(str, kept)) or "none"
    if until is not None and until not in kept:
        raise UserError(f"until={until}: {run.path} has no such checkpoint; it has: {known}")
    steps = [step for step in kept if until is None or step <= until]
    if len(steps) < 2:
        raise UserError(
            f"{run.path}: {len(steps)} checkpoints (kept: {known}); an average needs at least two: "
            "train with a smaller training.checkpoint_every"
        )
    return steps


def _name(config: AverageConfig, steps: Sequence[int]) -> str:
    name = config.name or f"post-hoc-{config.width:g}" + ("" if config.until is None else f"-step{steps[-1]:06d}")
    if name in _TAKEN or not _NAME.fullmatch(name):
        raise UserError(f"name: '{name[:80]}'; expected letters, digits, - . _, and none of {', '.join(_TAKEN)}")
    return name
