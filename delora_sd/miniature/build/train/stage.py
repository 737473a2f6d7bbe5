"""One training stage: steps until a time budget is spent, a cosine learning rate, checkpoints, resume.

Progress is measured in minutes spent, not in steps, so the same script suits a laptop and a GPU.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save
from torch import nn

from delora_sd.files.run_folder import write_bytes
from delora_sd.miniature.build.train.muon import Muon

CHECKPOINT_SECONDS = 120
REPORT_SECONDS = 20


@dataclass(frozen=True, kw_only=True)
class StagePlan:
    """A stage's budget: its name, where its checkpoint lies, and how long it trains."""

    name: str
    folder: Path
    minutes: float
    warmup_steps: int = 100

    @property
    def checkpoint(self) -> Path:
        """One file with the weights, the optimizer's moments and the time spent."""
        return self.folder / f"{self.name}.safetensors"


def train_stage(
    plan: StagePlan,
    modules: dict[str, nn.Module],
    optimizer: Muon,
    *,
    step: Callable[[int, float], dict[str, float]],
    say: Callable[[str], None],
) -> None:
    """Calls `step(number, progress)` until the budget is spent, resuming from the checkpoint when there is one.

    `step` computes the loss and its gradients and returns figures to report; `progress` runs from 0 to 1.
    """
    number, spent = _resume(plan, modules, optimizer)
    means: dict[str, float] = {}
    started = saved = reported = time.monotonic()
    before = spent
    while spent < plan.minutes * 60:
        progress = spent / (plan.minutes * 60)
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * _schedule(number, progress, plan.warmup_steps)
        optimizer.zero_grad(set_to_none=True)
        for name, value in step(number, progress).items():
            means[name] = value if name not in means else 0.98 * means[name] + 0.02 * value
        torch.nn.utils.clip_grad_norm_([p for group in optimizer.param_groups for p in group["params"]], 1.0)
        optimizer.step()
        number += 1
        now = time.monotonic()
        spent = before + now - started
        if now - reported > REPORT_SECONDS:
            reported = now
            shown = " ".join(f"{name} {value:.4f}" for name, value in means.items())
            say(f"{plan.name}: step {number} {spent / 60:.1f}/{plan.minutes:.0f} min {shown}")
        if now - saved > CHECKPOINT_SECONDS:
            saved = now
            _save(plan, modules, optimizer, number, spent)
    _save(plan, modules, optimizer, number, spent)


def _schedule(number: int, progress: float, warmup_steps: int) -> float:
    return min(1.0, (number + 1) / warmup_steps) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0))))


def _save(plan: StagePlan, modules: dict[str, nn.Module], optimizer: Muon, number: int, spent: float) -> None:
    tensors = {"clock": torch.tensor([float(number), spent], dtype=torch.float64)}
    for name, module in modules.items():
        tensors |= {f"module/{name}/{key}": value.detach().clone() for key, value in module.state_dict().items()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{key}": value.detach().clone() for key, value in moments.items()}
    write_bytes(plan.checkpoint, save({key: value.contiguous().cpu() for key, value in tensors.items()}))


def _resume(plan: StagePlan, modules: dict[str, nn.Module], optimizer: Muon) -> tuple[int, float]:
    """Steps done and seconds spent; loads the checkpoint into the modules and the optimizer."""
    if not plan.checkpoint.exists():
        return 0, 0.0
    tensors = load_file(plan.checkpoint)
    for name, module in modules.items():
        prefix = f"module/{name}/"
        module.load_state_dict(
            {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
        )
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, moment = key.split("/")
            state.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    number, spent = tensors["clock"].tolist()
    return int(number), spent
