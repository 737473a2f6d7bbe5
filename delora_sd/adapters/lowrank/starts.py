"""What the settings say about one layer, and every tensor of it at step 0.

One function per start: (spec, config, weight (out, in), generator) -> fp32.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from delora_sd.adapters.lowrank import factors as formulas
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
    boundary: float | tuple[float, ...]
    """Initial boundary lambda; of each slice, where there are slices."""
    alpha: float
    rows: tuple[int, ...] = ()
    """Output rows of each logical slice of a fused matrix (q, k, v, MLP): each is bounded by itself. (): one matrix."""


def weight_norm_kind(config: AdapterConfig) -> str:
    """Which norm of the frozen weight scales the update: column, frobenius or none."""
    return "none" if config.method == "normalized_lora" else config.weight_norm


def weight_norms(weight: Tensor, kind: str) -> Tensor:
    """Returns what multiplies the columns of dW, (in,) in fp32: column norms, ||W||_F, or ones."""
    weight = weight.float()
    if kind == "column":
        return weight.norm(dim=0)
    return torch.full_like(weight[0], 1.0) * (weight.norm() if kind == "frobenius" else 1.0)


def _kaiming(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    """Uniform in +-1/sqrt(columns): torch's Linear default, kaiming_uniform with a = sqrt(5)."""
    return (torch.rand(rows, columns, generator=generator) * 2 - 1) / math.sqrt(columns)


def start_lora(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    out_features, in_features = weight.shape
    return {"A": _kaiming(spec.rank, in_features, generator), "B": torch.zeros(out_features, spec.rank)}


def start_dora(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    return start_lora(spec, config, weight, generator) | {"magnitude": weight.float().norm(dim=1)}


def start_delora(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    """The three ways to start at zero (Eq. 9 and METHODS): frozen copy, mirrored twins, B = 0."""
    out_features, in_features = weight.shape
    A = _kaiming(spec.rank, in_features, generator)
    B = _kaiming(out_features, spec.rank, generator)
    tensors = {"boundary": torch.tensor(spec.boundary), "weight_norm": weight_norms(weight, weight_norm_kind(config))}
    if config.init == "mirrored":
        half = spec.rank // 2
        A, B = torch.cat([A[:half], A[:half]]), torch.cat([B[:, :half], -B[:, :half]], dim=1)
    if config.init == "zero_up":
        B = torch.zeros_like(B)
    tensors |= {"A": A, "B": B}
    if config.init == "frozen_copy":
        down, up, _ = formulas.delora_factors(A, B, tensors["boundary"], tensors["weight_norm"])
        tensors |= {"start_down": down, "start_up": up}
    return tensors


def start_ether(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    return {"u": torch.randn(weight.shape[1], generator=generator)}


def start_ether_plus(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    u = torch.randn(weight.shape[1], generator=generator)
    u_out = torch.randn(weight.shape[0], generator=generator)
    return {"u": u, "v": -u, "u_out": u_out, "v_out": -u_out}


def start_one_sided(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    u = torch.randn(1, weight.shape[1], generator=generator)
    return {"U": u, "V": -u}


def start_bounded(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    return start_one_sided(spec, config, weight, generator) | {"boundary": torch.tensor(spec.boundary)}


def start_high_rank(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    U = torch.randn(spec.rank // 2, weight.shape[1], generator=generator)
    return {"U": U, "V": -U, "boundary": torch.tensor(spec.boundary)}


def start_relaxed(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    """D Phi C starts as a copy of B Xi A: both are trained, and their difference is zero."""
    half, in_features = spec.rank // 2, weight.shape[1]
    A, B = (torch.randn(half, in_features, generator=generator) for _ in range(2))
    return {"A": A, "B": B, "C": A.clone(), "D": B.clone(), "boundary": torch.tensor(spec.boundary)}
