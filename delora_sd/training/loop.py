"""The loop. Everything it needs is in the session the recipe built; everything it tells goes to the observer."""

import math
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext

import torch
from torch import Tensor, nn

from delora_sd.training.batches import Batch, Draw, assemble_batch, draw_step, part_of_draw
from delora_sd.training.objective import pack_losses
from delora_sd.training.optimization import clip_gradients, set_learning_rates
from delora_sd.training.session import Observer, Session, StepReport


def run_loop(session: Session, observer: Observer, *, start_step: int) -> None:
    """Trains from `start_step` to the last step, or until every adapter has diverged or a stop is asked for."""
    config = session.configs[0]
    rates = [each.optimizer for each in session.configs]
    with ThreadPoolExecutor(1) as ahead:
        upcoming = ahead.submit(_draw, session, start_step)
        for step in range(start_step, config.training.num_steps):
            began, draws = time.monotonic(), upcoming.result()
            upcoming = ahead.submit(_draw, session, step + 1)
            set_learning_rates(session.optimizer, rates, step, config.training.num_steps)
            losses = _backward(session, draws)
            norms = _guard_gradients(session, step)
            session.optimizer.step()
            session.optimizer.zero_grad(set_to_none=True)
            observer.after_step(StepReport(step=step + 1, losses=losses, grad_norms=norms, began=began))
            if len(session.diverged) == len(session.adapters) or observer.stop_requested:
                break


def _draw(session: Session, step: int) -> list[Draw]:
    return [
        draw_step(
            cell,
            seed=config.seed,
            step=step,
            batch_size=config.training.batch_size,
            num_timesteps=len(session.alphas_cumprod),
        )
        for cell, config in zip(session.cells, session.configs, strict=True)
    ]


def _backward(session: Session, draws: list[Draw]) -> Tensor:
    """Accumulates the gradients of one step; returns (2, adapters): instance and weighted class losses."""
    accelerator, num_parts = session.accelerator, session.configs[0].training.gradient_accumulation
    total = 0
    for part in range(num_parts):
        batch = _own_part(session, draws, part)
        with nullcontext() if part == num_parts - 1 else accelerator.no_sync(session.model):
            instance, prior = pack_losses(
                session.model,
                batch,
                alphas_cumprod=session.alphas_cumprod,
                prediction_type=session.prediction_type,
                prior_weights=torch.tensor([config.training.prior_weight for config in session.configs]),
            )
            scales = torch.tensor(session.scales, device=accelerator.device)
            accelerator.backward(((instance + prior) * scales).sum() / num_parts)
        total = total + torch.stack([instance, prior]).detach() / num_parts
    return total


def _own_part(session: Session, draws: list[Draw], part: int) -> Batch:
    """This process's share of one accumulation part of the global batch."""
    accelerator, training = session.accelerator, session.configs[0].training
    share = accelerator.process_index * training.gradient_accumulation + part
    own = [
        part_of_draw(
            draw,
            part=share,
            num_parts=accelerator.num_processes * training.gradient_accumulation,
            has_class_images=cell.class_images is not None,
        )
        for draw, cell in zip(draws, session.cells, strict=True)
    ]
    return assemble_batch(session.cells, own, accelerator.device)


def _guard_gradients(session: Session, step: int) -> list[float]:
    """Clips each adapter on its own; one whose gradients are not finite is left out, the others go on untouched."""
    live = [index for index in range(len(session.adapters)) if index not in session.diverged]
    found = torch.stack([_clip(session, index) for index in live]).tolist()  # one look at the device per step
    norms = [math.nan] * len(session.adapters)
    for index, norm in zip(live, found, strict=True):
        norms[index] = norm
        if math.isfinite(norm):
            continue
        if session.scales[index] > 1.0:
            session.scales[index] /= 2
        else:
            session.diverged[index] = f"the loss or its gradient was not finite at step {step + 1}"
    for index, norm in enumerate(norms):
        if not math.isfinite(norm):
            _drop_gradients(session.adapters[index])
    return norms


def _clip(session: Session, index: int) -> Tensor:
    clip_norm = session.configs[index].optimizer.clip_norm
    return clip_gradients(session.adapters[index], clip_norm, session.scales[index])


def _drop_gradients(adapter: nn.Module) -> None:
    for parameter in adapter.parameters():
        parameter.grad = None
