"""Checkpoints of one adapter: its tensors, optimizer state and step; no random state is needed (see batches.py)."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from delora_sd.adapters.exchange.stored.formats import restore_adapter, save_adapter
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import RunFolder, read_json, write_folder, write_json
from delora_sd.files.tensors import read_tensors
from delora_sd.training.loop.ema import EMA, Ema

OPTIMIZER_FILE = "optimizer.safetensors"
PROGRESS_FILE = "progress.json"

_LIKE_THE_PARAMETER = ("exp_avg", "exp_avg_sq")
"""AdamW's moments; the 8-bit optimizer packs its own."""


def save_checkpoint(
    run: RunFolder,
    step: int,
    adapter: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    ema: Ema | None,
    loss_scale: float,
    base: str,
) -> None:
    """Writes `checkpoints/step-NNNNNN/`, whole or not at all."""

    def write(folder: Path) -> None:
        save_adapter(adapter, folder / "adapter", base=base)
        if ema is not None:
            ema.save(folder / EMA, base=base)
        save_file(_optimizer_tensors(adapter, optimizer), folder / OPTIMIZER_FILE)
        write_json(folder / PROGRESS_FILE, {"step": step, "loss_scale": loss_scale})

    write_folder(run.checkpoint(step), write)


def load_checkpoint(run: RunFolder, step: int, adapter: nn.Module, optimizer: torch.optim.Optimizer) -> float:
    """Restores the adapter and its optimizer state bit for bit; returns the loss scale."""
    folder = run.checkpoint(step)
    restore_adapter(adapter, folder / "adapter")
    saved, _ = read_tensors(folder / OPTIMIZER_FILE)
    _check_fit(saved, list(adapter.parameters()), folder)
    fused = optimizer.param_groups[0].get("fused")
    for index, parameter in enumerate(adapter.parameters()):
        prefix = f"{index}."
        optimizer.state[parameter] = {
            key.removeprefix(prefix): value if key == f"{prefix}step" and not fused else value.to(parameter.device)
            for key, value in saved.items()
            if key.startswith(prefix)
        }
    fields = {"step": int, "loss_scale": float}
    file = folder / PROGRESS_FILE
    return check_record(read_json(file), fields, source=str(file), advice=_advice(folder))["loss_scale"]


def last_common_step(runs: list[RunFolder]) -> int:
    """Returns the newest step from which every run of a pack can go on; 0 when there is none."""
    resumable = [
        {step for step in run.checkpoint_steps() if (run.checkpoint(step) / OPTIMIZER_FILE).exists()} for run in runs
    ]
    return max(set.intersection(*resumable), default=0)


def prune_checkpoints(run: RunFolder, keep: int, *, step: int) -> None:
    """Drops the optimizer state of all but the newest `keep` checkpoints up to `step`, not their adapters; 0 keeps all.

    A later checkpoint does not count: another run of the pack may not have it, and then training resumes before it.
    """
    steps = [each for each in run.checkpoint_steps() if each <= step]
    for old in steps[:-keep] if keep else []:
        (run.checkpoint(old) / OPTIMIZER_FILE).unlink(missing_ok=True)


def _check_fit(saved: dict[str, Tensor], parameters: list[nn.Parameter], folder: Path) -> None:
    """Raises UserError for an optimizer state of other parameters."""
    for key, value in saved.items():
        index, _, name = key.partition(".")
        is_known = index.isdecimal() and int(index) < len(parameters)
        if not is_known or (name in _LIKE_THE_PARAMETER and value.shape != parameters[int(index)].shape):
            raise UserError(
                f"{folder / OPTIMIZER_FILE}: '{key[:80]}' {tuple(value.shape)} belongs to another training; "
                + _advice(folder)
            )


def _advice(folder: Path) -> str:
    return f"delete {folder} to go on from the checkpoint before it"


def _optimizer_tensors(adapter: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Returns {"<parameter index>.<name>": tensor} of everything the optimizer remembers about one adapter."""
    return {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, parameter in enumerate(adapter.parameters())
        for name, value in optimizer.state[parameter].items()
        if isinstance(value, Tensor)
    }
