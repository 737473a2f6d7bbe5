"""`delora-sd estimate`: what a step takes on this machine, measured in a few steps on inputs of no meaning."""

import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from delora_sd.adapters.attach import attach_method, check_known, is_packable, with_default_layers
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.parts import resolve_device, resolve_dtype
from delora_sd.files.run_folder import write_json
from delora_sd.settings import TrainConfig
from delora_sd.training.loop.batches import assemble_batch, draw_step
from delora_sd.training.loop.objective import AdaptedDenoiser, load_training_denoiser, pack_losses
from delora_sd.training.loop.optimization import build_optimizer
from delora_sd.training.memory.meter import free_bytes
from delora_sd.training.memory.pack_size import measure_pack_memory, random_cell
from delora_sd.training.record.manifest import device_name
from delora_sd.training.settings import EstimateConfig

WARM_STEPS, TIMED_STEPS = 2, 3
PACK = 4
"""Timed beside one adapter alone: the line between the two is what each further one adds."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """Of one kind of training on this machine."""

    device: str
    step_seconds: float
    """A step of one adapter alone."""
    more_seconds: float
    """What each further adapter in a pack adds to a step; of methods that cannot be packed, a whole step."""
    fixed_bytes: float
    bytes_per_adapter: float
    """Peak memory of a step with K adapters: fixed + K of these."""
    free_bytes: float


def estimate(config: EstimateConfig) -> Estimate:
    """Returns the figures, and writes them where `output` says.

    Raises:
        UserError: a method or a base that there is not, or a disk that does not take the file.
    """
    check_known(config.adapter)
    train = TrainConfig(
        model=config.model, adapter=config.adapter, training=config.training, optimizer=config.optimizer
    )
    alone = _step_seconds(train, 1)
    can_pack = is_packable(config.adapter.method)
    together = _step_seconds(train, PACK) if can_pack else alone * PACK
    needs = measure_pack_memory([train]) if can_pack else None
    found = Estimate(
        device=device_name(),
        step_seconds=alone,
        more_seconds=max(0.0, (together - alone) / (PACK - 1)),
        fixed_bytes=needs.fixed_bytes if needs else 0.0,
        bytes_per_adapter=needs.bytes_per_adapter if needs else 0.0,
        free_bytes=float(free_bytes(resolve_device())),
    )
    if config.output:
        write_json(Path(config.output).expanduser(), asdict(found))
    return found


def describe_estimate(found: Estimate, num_steps: int) -> str:
    """Returns the figures for a person."""
    minutes = num_steps * found.step_seconds / 60
    pack = num_steps * (found.step_seconds + (PACK - 1) * found.more_seconds) / 60
    needed = (found.fixed_bytes + found.bytes_per_adapter) / 1e9
    memory_text = f"{needed:.2f} GB, {found.free_bytes / 1e9:.2f} GB are free" if needed else "not measured"
    return (
        f"{found.device}: {found.step_seconds:.3f} s per step, {minutes:.1f} min for {num_steps} steps\n"
        f"{PACK} adapters in one pack: {pack:.1f} min instead of {PACK * minutes:.1f}\n"
        f"memory of a step: {memory_text}"
    )


def _step_seconds(config: TrainConfig, pack_size: int) -> float:
    """Returns the fastest of the timed steps: what else the machine did meanwhile is no part of it."""
    device = resolve_device()
    base = find_base(config.model)
    dtype = resolve_dtype(config.model.dtype, device)
    denoiser = load_training_denoiser(base, config.model, config.training, device=device, dtype=dtype)
    adapter = with_default_layers(config.adapter, base.family)
    seeds, fused_rows = list(range(pack_size)), base.family.fused_rows(denoiser)
    pack = attach_method(denoiser, [adapter] * pack_size, seeds=seeds, fused_rows=fused_rows)
    optimizer = build_optimizer([(adapter, config.optimizer) for adapter in pack.adapters], device)
    cells = [random_cell(config, base, device)] * pack_size
    objective = base.family.objective(base, config.training, device)
    model, times = AdaptedDenoiser(denoiser, pack, base.family.predict), []
    for step in range(WARM_STEPS + TIMED_STEPS):
        began = time.monotonic()
        draws = [draw_step(cell, objective, seed=0, step=step, batch_size=config.training.batch_size) for cell in cells]
        losses = pack_losses(
            model,
            assemble_batch(cells, draws, device),
            objective=objective,
            prior_weights=torch.full((pack_size,), config.training.prior_weight),
        )
        sum(losses).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        times.append(time.monotonic() - began)
    return min(times[WARM_STEPS:])
