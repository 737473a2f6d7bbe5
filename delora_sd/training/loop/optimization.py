"""One optimizer over all adapters of a pack; rates, decay, clipping and schedule are each adapter's own."""

import math
from collections.abc import Iterable, Mapping
from functools import partial
from types import MappingProxyType

import torch
from torch import Tensor, nn

from delora_sd.adapters.attach import Trainable, default_learning_rate
from delora_sd.adapters.lowrank.adapter import Adapter
from delora_sd.errors import UserError
from delora_sd.settings import OptimizerConfig
from delora_sd.training.loop.angular import ANGULAR_RATE, keep_directions

UNDECAYED = ("boundary", "magnitude")
"""Tensors weight decay leaves alone: scales, not directions."""

NO_HIGHEST_RATES: Mapping[str, float] = MappingProxyType({})


def build_optimizer(
    adapters: Iterable[tuple[Trainable, OptimizerConfig]],
    device: torch.device,
    *,
    highest_rates: Mapping[str, float] = NO_HIGHEST_RATES,
) -> torch.optim.Optimizer:
    """Returns an AdamW whose parameter groups carry their `adapter`, its `settings`, `base_lr` and `is_boundary`.

    Args:
        highest_rates: {name of a parameter: its learning rate at most}.
    """
    pairs = list(adapters)
    groups = [group for adapter, settings in pairs for group in _parameter_groups(adapter, settings, highest_rates)]
    optimizer = _optimizer_class(groups[0]["settings"].name, device)(groups)
    if angular := [adapter for adapter, settings in pairs if settings.angular]:
        optimizer.register_step_post_hook(partial(_keep_directions_of, angular))
    return optimizer


def _keep_directions_of(adapters: list[Adapter], *_: object) -> None:
    for adapter in adapters:
        keep_directions(adapter)


def _parameter_groups(adapter: Trainable, settings: OptimizerConfig, highest_rates: Mapping[str, float]) -> list[dict]:
    """Directions at `lr` with decay (angular ones need none), scales without, boundary and magnitude at their rates."""
    default = ANGULAR_RATE if settings.angular else default_learning_rate(adapter.config.method)
    lr = default if settings.lr is None else settings.lr
    own_rates = {"boundary": settings.boundary_lr, "magnitude": settings.magnitude_lr}
    by_kind: dict[tuple[bool, float, float], list[nn.Parameter]] = {}
    for name, parameter in adapter.parameters_by_name():
        decay = 0.0 if name in UNDECAYED or settings.angular else settings.weight_decay
        own = own_rates.get(name)
        rate = min(lr if own is None else own, highest_rates.get(name, math.inf))
        by_kind.setdefault((name == "boundary", decay, rate), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": rate,
            "base_lr": rate,
            "is_boundary": is_boundary,
            "weight_decay": decay,
            "betas": tuple(settings.betas),
            "eps": settings.eps,
            "adapter": adapter,
            "settings": settings,
        }
        for (is_boundary, decay, rate), parameters in by_kind.items()
    ]


def _optimizer_class(name: str, device: torch.device):
    if name == "adamw":
        return lambda groups: torch.optim.AdamW(groups, fused=device.type == "cuda" or None)
    if device.type != "cuda":
        raise UserError("optimizer.name: adamw8bit needs an NVIDIA GPU; use adamw")
    try:
        from bitsandbytes.optim import AdamW8bit
    except ImportError:
        raise UserError("optimizer.name: adamw8bit needs bitsandbytes; pip install 'delora_sd[adamw8bit]'") from None
    return AdamW8bit


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, num_steps: int) -> None:
    """Sets every group's rate for this step from its adapter's own schedule."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * schedule_factor(group["settings"], step, num_steps)


def learning_rate(optimizer: torch.optim.Optimizer, adapter: Trainable) -> float:
    """Returns the present rate of an adapter's directions."""
    groups = [group for group in optimizer.param_groups if group["adapter"] is adapter]
    return next(group["lr"] for group in groups if not group["is_boundary"])


def schedule_factor(config: OptimizerConfig, step: int, num_steps: int) -> float:
    """Returns the factor in [0, 1] on the rate: linear warm-up, then constant, linear or cosine decay to 0."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return 1.0
    progress = (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps)
    return 1.0 - progress if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * progress))


def clip_gradients(adapter: nn.Module, max_norm: float, loss_scale: float) -> Tensor:
    """Unscales and clips one adapter's gradients in place; returns their norm before clipping, ()."""
    gradients = [parameter.grad for parameter in adapter.parameters() if parameter.grad is not None]
    if loss_scale != 1.0:
        torch._foreach_div_(gradients, loss_scale)
    norm = torch.nn.utils.get_total_norm(gradients)
    if max_norm > 0:
        torch._foreach_mul_(gradients, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return norm
