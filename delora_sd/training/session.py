"""A pack in training: what the loop works on and what it tells after every step."""

from dataclasses import dataclass
from typing import Protocol

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from delora_sd.settings import TrainConfig
from delora_sd.training.batches import CellData

FP16_LOSS_SCALE = 2.0**12
"""First loss scale of an fp16 base; halved whenever an adapter's gradients overflow."""


@dataclass(kw_only=True)
class Session:
    """K adapters and everything one step needs. `scales` and `diverged` change while it runs."""

    accelerator: Accelerator
    model: nn.Module
    """The adapted UNet, prepared by accelerate."""
    adapters: list[nn.Module]
    optimizer: torch.optim.Optimizer
    configs: list[TrainConfig]
    cells: list[CellData]
    alphas_cumprod: Float[Tensor, " timesteps"]
    prediction_type: str
    scales: list[float]
    """Loss scale of each adapter; 1 unless the base is fp16."""
    diverged: dict[int, str]
    """{adapter: why}; they are left out of every later step."""


@dataclass(frozen=True, kw_only=True)
class StepReport:
    step: int
    """Completed steps."""
    losses: Float[Tensor, "2 adapters"]
    """Instance and weighted class loss of this process, on the device."""
    grad_norms: list[float]
    """Before clipping; nan for an adapter that was left out."""
    began: float
    """time.monotonic() when the step began."""


class Observer(Protocol):
    """Who is told after every step, and may ask the loop to stop."""

    stop_requested: bool

    def after_step(self, report: StepReport) -> None: ...
