"""Per method: how its tensors start, which are trained at which rate, and its factors. `METHODS` is the whole family.

Methods that are not "low-rank factors of parameters and a frozen weight" (full, oft, peft) live in attach.py.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import TypeVar

import torch
from torch import Tensor

from delora_sd.adapters.lowrank import factors as formulas
from delora_sd.adapters.lowrank import slices, starts
from delora_sd.adapters.lowrank.factors import Factors
from delora_sd.adapters.lowrank.starts import START, LayerSpec, Tensors, weight_norm_kind
from delora_sd.errors import UserError, nearest_name
from delora_sd.settings import AdapterConfig

Number = TypeVar("Number", int, float)


@dataclass(frozen=True, kw_only=True)
class Method:
    formula: str
    start: Callable[[LayerSpec, AdapterConfig, Tensor, torch.Generator], Tensors]
    """(spec, config, weight (out, in), generator) -> every tensor of the layer at step 0, in fp32."""
    factors: Callable[[Tensors, AdapterConfig, LayerSpec, Tensor | None], Factors]
    """(tensors with leading axes, config, spec, weight if `needs_weight`) -> Factors, a frozen start not subtracted."""
    trained: tuple[str, ...]
    """Names of the trained tensors; the others are frozen and saved with them."""
    lr: float
    """Published or found learning rate of the directions; the preset names the source."""
    row_axes: Mapping[str, int] = field(default_factory=dict)
    """{tensor: its axis over the layer's output rows}: how a fused matrix is sliced."""
    directions: Mapping[str, int] = field(default_factory=dict)
    """{trained tensor: the axis along which its vectors lie} of those divided by their own length; {}: none are."""
    exact_rank: Callable[[AdapterConfig], int] | None
    """Rank of the exact plain LoRA at the settings' rank; None: not low-rank."""
    needs_weight: bool = False
    starts_at_identity: bool = True
    needs_even_rank: bool = False
    uses_rank: bool = True
    """False: the number of terms is fixed by the method."""


def check_adapter_config(config: AdapterConfig, known: tuple[str, ...]) -> None:
    """Raises UserError for settings no layer could satisfy; called before any model loads."""
    if config.method not in known:
        raise UserError(f"adapter.method: unknown method '{config.method}'{nearest_name(config.method, known)}")
    for key, rank in ({"adapter.rank": config.rank} | _pattern_items("rank", config.rank_pattern)).items():
        if rank < 1:
            raise UserError(f"{key}: {rank}; a rank is a whole number of at least 1")
    boundaries = {"adapter.boundary": config.boundary} | _pattern_items("boundary", config.boundary_pattern)
    for key, value in boundaries.items():
        if not (value > 0 and math.isfinite(value)):
            raise UserError(f"{key}: {value}; a boundary is a positive number (0 would forbid any update)")
    if config.alpha is not None and not config.alpha > 0:
        raise UserError(f"adapter.alpha: {config.alpha}; expected a positive number or none")
    if not config.target_modules:
        raise UserError("adapter.target_modules: empty; name at least one layer, such as to_q")


def resolve_layer(name: str, config: AdapterConfig, weight: Tensor, rows: tuple[int, ...] = ()) -> LayerSpec:
    """Returns the settings of one layer.

    Args:
        weight: (out, in) or a convolution's (out, in, height, width).
        rows: Output rows of each slice of a fused matrix; only methods with a boundary care.

    Raises:
        UserError: the rank does not fit the layer or the method.
    """
    rank = _match(name, config.rank_pattern, config.rank)
    flat = weight.flatten(1)
    if METHODS[config.method].uses_rank and rank > min(flat.shape):
        raise UserError(f"adapter.rank: {rank} is above the {min(flat.shape)} of layer {name} {tuple(weight.shape)}")
    even = METHODS[config.method].needs_even_rank or (config.init == "mirrored" and "boundary" in _trained(config))
    if even and rank % 2:
        raise UserError(
            f"adapter.rank: {rank} is odd; {config.method} with init={config.init} pairs its terms, use an even rank"
        )
    boundary = _match(name, config.boundary_pattern, config.boundary)
    spec = LayerSpec(
        shape=tuple(weight.shape),
        rank=rank,
        boundary=_paper_boundary(boundary, config, flat),
        alpha=config.alpha or 2.0 * rank,
    )
    if not rows or "boundary" not in _trained(config):
        return spec
    boundaries = tuple(_paper_boundary(boundary, config, part) for part in flat.split(rows))
    return replace(spec, boundary=boundaries, rows=rows)


def _paper_boundary(boundary: float, config: AdapterConfig, weight: Tensor) -> float:
    if config.boundary_unit == "relative":
        boundary *= _paper_boundary_of_relative_one(config, weight)
    return boundary


def _paper_boundary_of_relative_one(config: AdapterConfig, weight: Tensor) -> float:
    """The lambda at which the bound on ||dW||_F / ||W||_F is 1, from the weight norm in use."""
    kind = weight_norm_kind(config)
    if METHODS[config.method].needs_weight or kind == "frobenius":
        return 1.0
    return math.sqrt(weight.shape[1]) if kind == "column" else weight.float().norm().item()


def start_layer(spec: LayerSpec, config: AdapterConfig, weight: Tensor, generator: torch.Generator) -> Tensors:
    """Returns every tensor of one layer at step 0, fp32; `weight` is (out, in)."""
    method = METHODS[config.method]
    if not spec.rows:
        return method.start(spec, config, weight, generator)
    return slices.start_sliced(method.start, method.factors, method.row_axes, spec, config, weight, generator)


def make_factors(
    tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None
) -> tuple[Factors, Factors]:
    """Returns (all terms, the trained ones), fp32 and differentiable; one and the same without a frozen start.

    Args:
        tensors: Of one layer, or with leading axes (layers, adapters).
        weight: (out, in), only for methods that need it.
    """
    method = METHODS[config.method]
    if spec.rows:
        trained = slices.sliced_factors(method.factors, method.row_axes, tensors, config, spec, weight)
    else:
        trained = method.factors(tensors, config, spec, weight)
    if START[0] not in tensors:
        return trained, trained
    return formulas.without_start(trained, *(tensors[name] for name in START)), trained


def trained_names(config: AdapterConfig) -> tuple[str, ...]:
    """Names of the tensors that training changes."""
    names = _trained(config)
    return tuple(name for name in names if name != "magnitude" or config.train_magnitude)


def _trained(config: AdapterConfig) -> tuple[str, ...]:
    return METHODS[config.method].trained


def _pattern_items(what: str, pattern: dict) -> dict:
    return {f"adapter.{what}_pattern['{key}']": value for key, value in pattern.items()}


def _match(name: str, pattern: dict[str, Number], default: Number) -> Number:
    for expression, value in pattern.items():
        if re.search(expression, name):
            return value
    return default


def _delora(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    return formulas.delora_factors(tensors["A"], tensors["B"], tensors["boundary"], tensors["weight_norm"])


def _lora(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    return formulas.lora_factors(tensors["A"], tensors["B"], alpha=spec.alpha)


def _dora(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    return formulas.dora_factors(tensors["A"], tensors["B"], tensors["magnitude"], alpha=spec.alpha, weight=weight)


def _ether(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    return formulas.ether_factors(tensors["u"], weight=weight)


def _ether_plus(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    return formulas.ether_plus_factors(*(tensors[name] for name in ("u", "v", "u_out", "v_out")), weight=weight)


def _one_sided(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    boundary = torch.full_like(tensors["U"][..., 0, 0], 2.0)
    return formulas.reflection_pair_factors(tensors["U"], tensors["V"], boundary, weight=weight)


def _reflection_pairs(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    return formulas.reflection_pair_factors(tensors["U"], tensors["V"], tensors["boundary"], weight=weight)


def _relaxed(tensors: Tensors, config: AdapterConfig, spec: LayerSpec, weight: Tensor | None) -> Factors:
    return formulas.product_pair_factors(
        *(tensors[name] for name in ("A", "B", "C", "D")), tensors["boundary"], weight=weight
    )


METHODS: dict[str, Method] = {
    "delora": Method(
        formula="W + (λ‖W‖/r) B Ξ A",
        start=starts.start_delora,
        factors=_delora,
        trained=("A", "B", "boundary"),
        lr=2e-2,
        row_axes={"B": -2},
        directions={"A": -1, "B": -2},
        exact_rank=lambda config: config.rank * (2 if config.init == "frozen_copy" else 1),
    ),
    "lora": Method(
        formula="W + (α/r) B A",
        start=starts.start_lora,
        factors=_lora,
        trained=("A", "B"),
        lr=6e-4,
        exact_rank=lambda config: config.rank,
    ),
    "normalized_lora": Method(
        formula="W + (λ/r) B Ξ A",
        start=starts.start_delora,
        factors=_delora,
        trained=("A", "B", "boundary"),
        lr=2e-2,
        row_axes={"B": -2},
        directions={"A": -1, "B": -2},
        exact_rank=lambda config: config.rank * (2 if config.init == "frozen_copy" else 1),
    ),
    "dora": Method(
        formula="m (W + (α/r) B A) / ‖W + (α/r) B A‖",
        start=starts.start_dora,
        factors=_dora,
        trained=("A", "B", "magnitude"),
        lr=6e-4,
        exact_rank=None,
        needs_weight=True,
    ),
    "multiplicative_delora": Method(
        formula="W (I − (λ/r)(B Ξ A − D Φ C))ᵀ",
        start=starts.start_relaxed,
        factors=_relaxed,
        trained=("A", "B", "C", "D", "boundary"),
        lr=6e-3,
        directions={"A": -1, "B": -1, "C": -1, "D": -1},
        exact_rank=lambda config: config.rank,
        needs_weight=True,
        needs_even_rank=True,
    ),
    "multiplicative_high_rank": Method(
        formula="W (I − (λ/r)(U Σ Uᵀ − V Θ Vᵀ))",
        start=starts.start_high_rank,
        factors=_reflection_pairs,
        trained=("U", "V", "boundary"),
        lr=6e-3,
        directions={"U": -1, "V": -1},
        exact_rank=lambda config: config.rank,
        needs_weight=True,
        needs_even_rank=True,
    ),
    "ether_plus_bounded": Method(
        formula="W (I − (λ/2)(u uᵀ − v vᵀ))",
        start=starts.start_bounded,
        factors=_reflection_pairs,
        trained=("U", "V", "boundary"),
        lr=6e-3,
        directions={"U": -1, "V": -1},
        exact_rank=lambda config: 2,
        needs_weight=True,
        uses_rank=False,
    ),
    "ether_plus_one_sided": Method(
        formula="W (I − u uᵀ + v vᵀ)",
        start=starts.start_one_sided,
        factors=_one_sided,
        trained=("U", "V"),
        lr=6e-3,
        directions={"U": -1, "V": -1},
        exact_rank=lambda config: 2,
        needs_weight=True,
        uses_rank=False,
    ),
    "ether_plus": Method(
        formula="(I − ũ ũᵀ + ṽ ṽᵀ) W (I − u uᵀ + v vᵀ)",
        start=starts.start_ether_plus,
        factors=_ether_plus,
        trained=("u", "v", "u_out", "v_out"),
        lr=6e-3,
        directions={"u": -1, "v": -1, "u_out": -1, "v_out": -1},
        exact_rank=lambda config: 4,
        needs_weight=True,
        uses_rank=False,
    ),
    "ether": Method(
        formula="W (I − 2 u uᵀ)",
        start=starts.start_ether,
        factors=_ether,
        trained=("u",),
        lr=6e-3,
        directions={"u": -1},
        exact_rank=lambda config: 1,
        needs_weight=True,
        starts_at_identity=False,
        uses_rank=False,
    ),
}
