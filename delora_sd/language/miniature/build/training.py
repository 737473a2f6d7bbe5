"""Training from scratch for a number of steps, resumed from a checkpoint: where a run is stopped changes nothing."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from delora_sd.files.tensors import read_tensors, write_tensors
from delora_sd.random_streams import stream_generator

CHECKPOINT_STEPS = 50
WARMUP_STEPS = 100


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How one model is trained; `num_stop` ends a visit early, the schedule stays that of `num_steps`."""

    name: str
    folder: Path
    num_steps: int
    lr: float
    num_stop: int

    @property
    def checkpoint(self) -> Path:
        return self.folder / f"{self.name}.safetensors"


def train(
    plan: Plan,
    model: nn.Module,
    batch: Callable[[int, torch.Generator], dict[str, Tensor]],
    say: Callable[[str], None],
) -> bool:
    """Trains on `batch(step, generator)`, a function of the step alone; returns True when all steps are done."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=plan.lr, betas=(0.9, 0.98), weight_decay=0.01)
    first, mean = _resume(plan, model, optimizer), 0.0
    model.train()
    for step in range(first, min(plan.num_steps, plan.num_stop)):
        for group in optimizer.param_groups:
            group["lr"] = plan.lr * _schedule(step, plan.num_steps)
        loss = model(**batch(step, stream_generator(f"{plan.name}/{step}"))).loss
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean = loss.item() if step == first else 0.98 * mean + 0.02 * loss.item()
        if (step + 1) % CHECKPOINT_STEPS == 0 or step + 1 in (plan.num_steps, plan.num_stop):
            say(f"{plan.name}: step {step + 1} of {plan.num_steps}, loss {mean:.4f}")
            _save(plan, model, optimizer, step + 1)
    return min(plan.num_steps, plan.num_stop) == plan.num_steps


def _schedule(step: int, num_steps: int) -> float:
    return min(1.0, (step + 1) / WARMUP_STEPS) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / num_steps)))


def _save(plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
    tensors = {f"model/{name}": value.detach() for name, value in model.named_parameters()}
    for index, moments in optimizer.state_dict()["state"].items():
        tensors |= {f"optimizer/{index}/{name}": value for name, value in moments.items()}
    write_tensors(plan.checkpoint, tensors, {"step": str(step)})


def _resume(plan: Plan, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
    if not plan.checkpoint.exists():
        return 0
    tensors, metadata = read_tensors(plan.checkpoint)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(tensors[f"model/{name}"])
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer/"):
            _, index, moment = key.split("/")
            state.setdefault(int(index), {})[moment] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(metadata["step"])
