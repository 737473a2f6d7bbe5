"""The angular rate (ours, not the paper's): directions kept at one length, so that the learning rate is an angle.

DeLoRA divides every row of A and every column of B by its length. Plain AdamW lets that length grow, and the angle of
a step, about rate / (length / sqrt(width)), shrinks with every step and starts out different at every width. With the
root mean square of each vector put back to 1 after every step, AdamW, which moves each entry by about the rate, turns
each vector by about the rate in radians: the same at every step and every width.
"""

import torch
from torch import Tensor

from delora_sd.adapters.lowrank.adapter import Adapter
from delora_sd.adapters.lowrank.methods import METHODS, make_factors
from delora_sd.adapters.lowrank.starts import START
from delora_sd.errors import UserError
from delora_sd.settings import AdapterConfig

ANGULAR_RATE = 0.1
"""Radians per step while `optimizer.lr` is none: what did best on the miniature, with a cosine schedule."""


def check_angular(config: AdapterConfig) -> None:
    """Raises UserError for methods whose tensors have lengths that matter, or a start without direction."""
    able = [name for name, method in METHODS.items() if method.directions]
    if config.method not in able:
        raise UserError(
            f"optimizer.angular: the lengths of {config.method}'s tensors matter; it needs one of {', '.join(able)}"
        )
    if config.init == "zero_up" and "B" in METHODS[config.method].directions:
        raise UserError("optimizer.angular: with adapter.init=zero_up B starts at zero and has no direction yet")


@torch.no_grad()
def start_directions(adapter: Adapter) -> None:
    """Puts a fresh adapter's directions to length; the frozen start is made again from them, so that they cancel."""
    keep_directions(adapter)
    for index, group in enumerate(adapter.groups):
        tensors = adapter.group_tensors(index)
        if START[0] in tensors:
            _, trained = make_factors(tensors, adapter.config, group.spec, None)
            for name, value in zip(START, trained[:2], strict=True):
                tensors[name].copy_(value)


@torch.no_grad()
def keep_directions(adapter: Adapter) -> None:
    """Puts the root mean square of every direction back to 1; what the adapter does to the UNet stays the same."""
    method = METHODS[adapter.config.method]
    for group, stack in zip(adapter.groups, adapter.stacks, strict=True):
        for name, axis in method.directions.items():
            parameter = stack.get_parameter(name)
            rows = group.spec.rows if name in method.row_axes else ()
            for part in parameter.split(rows, dim=axis) if rows else [parameter]:  # a slice has its own directions
                part.div_(_root_mean_square(part, axis))


def _root_mean_square(value: Tensor, axis: int) -> Tensor:
    return value.square().mean(dim=axis, keepdim=True).sqrt_()
