"""What the settings say about one layer, and the names of its tensors."""

from dataclasses import dataclass

import torch
from torch import Tensor

from delora_sd.settings import AdapterConfig

Tensors = dict[str, Tensor]
"""Tensors of one layer by name: A (r, in), B (out, r), boundary (), weight_norm (in,), ..."""

START = ("start_down", "start_up")
"""Names of the frozen copy of an update at time 0, which is subtracted (Eq. 9)."""


@dataclass(frozen=True, kw_only=True)
class LayerSpec:
    """What the settings say about one layer, patterns applied and the boundary in the paper's unit."""

    shape: tuple[int, ...]
    """Shape of the frozen weight: (out, in), or (out, in, height, width) of a convolution."""
    rank: int
    boundary: float
    """Initial boundary lambda."""
    alpha: float


def weight_norm_kind(config: AdapterConfig) -> str:
    """Which norm of the frozen weight scales the update: column, frobenius or none."""
    return "none" if config.method == "normalized_lora" else config.weight_norm


def weight_norms(weight: Tensor, kind: str) -> Tensor:
    """Returns what multiplies the columns of dW, (in,) in fp32: column norms, ||W||_F, or ones."""
    weight = weight.float()
    if kind == "column":
        return weight.norm(dim=0)
    return torch.full_like(weight[0], 1.0) * (weight.norm() if kind == "frobenius" else 1.0)
