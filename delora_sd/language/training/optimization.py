"""AdamW over adapter, boundary and head at their own rates, and how the rates go on."""

import math
from typing import Any

import torch
from torch import nn

from delora_sd.adapters.attach import default_learning_rate
from delora_sd.language.models.attach import Adapted
from delora_sd.language.settings import TuningConfig

BOUNDARY = "boundary"


def make_optimizer(adapted: Adapted, tuning: TuningConfig) -> torch.optim.AdamW:
    """Returns torch's AdamW over four groups: directions, boundary, head, and biases, which are never decayed."""
    lr = learning_rate(adapted.pack.adapters[0].config.method, tuning)
    head_lr = lr if tuning.head_lr is None else tuning.head_lr
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in adapted.trained():
        last = name.rpartition(".")[2]
        rate = tuning.boundary_lr if last == BOUNDARY else head_lr if name.startswith("head.") else lr
        decay = 0.0 if last == "bias" else tuning.weight_decay
        groups.setdefault((rate, decay), []).append(parameter)
    listed: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "weight_decay": decay} for (rate, decay), parameters in groups.items()
    ]
    return torch.optim.AdamW(listed, lr=lr, betas=tuning.betas)


def learning_rate(method: str, tuning: TuningConfig) -> float:
    return default_learning_rate(method) if tuning.lr is None else tuning.lr


def make_schedule(
    optimizer: torch.optim.Optimizer, tuning: TuningConfig, num_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Returns the rise over the warmup and what follows; linear and cosine reach 0 after the last step."""
    warmup = num_warmup_steps(tuning, num_steps)

    def share(step: int) -> float:
        if step < warmup:
            return step / max(1, warmup)
        progress = min(1.0, (step - warmup) / max(1, num_steps - warmup))
        falls = {"constant": 1.0, "linear": 1 - progress, "cosine": 0.5 * (1 + math.cos(math.pi * progress))}
        return falls[tuning.schedule]

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def num_warmup_steps(tuning: TuningConfig, num_steps: int) -> int:
    return math.ceil(tuning.warmup_share * num_steps) if tuning.warmup_steps is None else tuning.warmup_steps


def count_steps(tuning: TuningConfig, num_examples: int) -> int:
    """Returns the optimizer steps of the whole training; an epoch's last batch may be smaller."""
    return math.ceil(tuning.num_epochs * math.ceil(num_examples / tuning.batch_size))
