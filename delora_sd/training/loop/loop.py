"""The loop. Everything it needs is in the session the recipe built; everything it tells goes to the observer."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from delora_sd.diffusion.families.family import Objective
from delora_sd.settings import TrainingConfig
from delora_sd.stopwatch import time_of
from delora_sd.training.loop.batches import Batch, Draw, assemble_batch, draw_step, part_of_draw
from delora_sd.training.loop.member import Member
from delora_sd.training.loop.objective import pack_losses
from delora_sd.training.loop.optimization import clip_gradients, set_learning_rates


@dataclass(frozen=True, kw_only=True)
class Session:
    """A pack in training: everything one step needs. Only its members change while it runs."""

    accelerator: Accelerator
    model: nn.Module
    """The adapted denoiser, prepared by accelerate."""
    members: list[Member]
    optimizer: torch.optim.Optimizer
    objective: Objective

    @property
    def training(self) -> TrainingConfig:
        """Of every member, but for the prior weight and the number of class images."""
        return self.members[0].config.training

    @property
    def live(self) -> list[Member]:
        return [member for member in self.members if member.left is None]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    step: int
    """Completed steps."""
    losses: Float[Tensor, "2 adapters"]
    """Instance and weighted class loss of this process, on the device."""
    began: float
    """time.monotonic() when the step began."""


@runtime_checkable
class Observer(Protocol):
    """Who is told after every step, and may ask the loop to stop."""

    stop_requested: bool

    def after_step(self, report: StepReport) -> None: ...


def run_loop(session: Session, observer: Observer, *, start_step: int) -> None:
    """Trains from `start_step` to the last step, or until every adapter has diverged or a stop is asked for."""
    num_steps = session.training.num_steps
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(_draw, session, start_step)
        for step in range(start_step, num_steps):
            with time_of("waiting for data"):
                began, draws = time.monotonic(), upcoming.result()
            upcoming = ahead.submit(_draw, session, step + 1)
            set_learning_rates(session.optimizer, step, num_steps)
            losses = _backward(session, draws)
            _guard_gradients(session, step)
            session.optimizer.step()
            _update_averages(session, step + 1)
            session.optimizer.zero_grad(set_to_none=True)
            observer.after_step(StepReport(step=step + 1, losses=losses, began=began))
            if not session.live or observer.stop_requested:
                break


def _draw(session: Session, step: int) -> list[Draw]:
    """The choices of every member, in their order."""
    batch_size = session.training.batch_size
    return [
        draw_step(member.data, session.objective, seed=member.config.seed, step=step, batch_size=batch_size)
        for member in session.members
    ]


def _backward(session: Session, draws: list[Draw]) -> Tensor:
    """Accumulates the gradients of one step; returns (2, adapters): instance and weighted class losses."""
    accelerator, num_parts = session.accelerator, session.training.gradient_accumulation
    total = 0
    for part in range(num_parts):
        batch = _own_part(session, draws, part)
        with nullcontext() if part == num_parts - 1 else accelerator.no_sync(session.model):
            instance, prior = pack_losses(
                session.model,
                batch,
                objective=session.objective,
                prior_weights=torch.tensor([member.config.training.prior_weight for member in session.members]),
            )
            scales = torch.tensor([member.loss_scale for member in session.members], device=accelerator.device)
            accelerator.backward(((instance + prior) * scales).sum() / num_parts)
        total = total + torch.stack([instance, prior]).detach() / num_parts
    return total


def _own_part(session: Session, draws: list[Draw], part: int) -> Batch:
    """This process's share of one accumulation part of the global batch."""
    accelerator, num_parts = session.accelerator, session.training.gradient_accumulation
    share, num_shares = accelerator.process_index * num_parts + part, accelerator.num_processes * num_parts
    own = [part_of_draw(draw, part=share, num_parts=num_shares) for draw in draws]
    return assemble_batch([member.data for member in session.members], own, accelerator.device)


def _guard_gradients(session: Session, step: int) -> None:
    """Clips each adapter on its own; one whose gradients are not finite is left out, the others go on untouched."""
    live = session.live
    norms = [clip_gradients(each.adapter, each.config.optimizer.clip_norm, each.loss_scale) for each in live]
    for member, norm in zip(live, torch.stack(norms).tolist(), strict=True):  # one look at the device per step
        member.grad_norm = norm
        if math.isfinite(norm):
            continue
        if member.loss_scale > 1.0:
            member.loss_scale /= 2
        else:
            member.left = f"the loss or its gradient was not finite at step {step + 1}"
    for member in session.members:
        if not math.isfinite(member.grad_norm):
            _drop_gradients(member.adapter)


def _update_averages(session: Session, step: int) -> None:
    for member in session.live:
        if member.ema is not None:
            member.ema.update(step)


def _drop_gradients(adapter: nn.Module) -> None:
    for parameter in adapter.parameters():
        parameter.grad = None
