"""Fused matrices: each logical slice of output rows (q, k, v, MLP) is a matrix of its own, as in the paper's formulas.

One boundary over all of them would let a large slice take what a small one is allowed. The slices share the input side
of the update (A), so that a fused layer trains what a plain LoRA of it trains, and one boundary per slice.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

import torch
from torch import Tensor

from delora_sd.adapters.lowrank.factors import Factors, stacked_rows
from delora_sd.adapters.lowrank.starts import START, LayerSpec, Tensors, weight_norm_kind, weight_norms
from delora_sd.settings import AdapterConfig

SLICE_AXES = {"boundary": -1, "weight_norm": -2}
"""{tensor: its axis over the slices}"""

MakeFactors = Callable[[Tensors, AdapterConfig, LayerSpec, Tensor | None], Factors]
Start = Callable[[LayerSpec, AdapterConfig, Tensor, torch.Generator], Tensors]


def sliced_factors(
    make: MakeFactors,
    row_axes: Mapping[str, int],
    tensors: Tensors,
    config: AdapterConfig,
    spec: LayerSpec,
    weight: Tensor | None,
) -> Factors:
    """Returns the factors of every slice, one below another; without a frozen start.

    Args:
        make: A method's formula for one matrix.
        row_axes: {tensor: its axis over the output rows}
    """
    weights = [None] * len(spec.rows) if weight is None else weight.split(spec.rows)
    parts = zip(_slices(tensors, row_axes, spec.rows), weights, strict=True)
    return stacked_rows([make(own, config, spec, own_weight) for own, own_weight in parts])


def _slices(tensors: Tensors, row_axes: Mapping[str, int], rows: tuple[int, ...]) -> Iterator[Tensors]:
    """Yields each slice's tensors; those without an axis over slices or rows belong to all."""
    first = 0
    for number, num_rows in enumerate(rows):
        own = dict(tensors)
        own |= {name: tensors[name].select(axis, number) for name, axis in SLICE_AXES.items() if name in tensors}
        own |= {name: tensors[name].narrow(axis, first, num_rows) for name, axis in row_axes.items()}
        yield own
        first += num_rows


def start_sliced(
    start: Start,
    make: MakeFactors,
    row_axes: Mapping[str, int],
    spec: LayerSpec,
    config: AdapterConfig,
    weight: Tensor,
    generator: torch.Generator,
) -> Tensors:
    """Returns every tensor of a fused layer at step 0: the method's own start, with each slice's boundary and norms."""
    plain = replace(spec, rows=(), boundary=spec.boundary[0])
    tensors = start(plain, config, weight, generator) | {"boundary": torch.tensor(spec.boundary)}
    if "weight_norm" in tensors:
        kind = weight_norm_kind(config)
        tensors["weight_norm"] = torch.stack([weight_norms(part, kind) for part in weight.split(spec.rows)])
    if START[0] in tensors:
        live = sliced_factors(make, row_axes, tensors, config, spec, None)
        tensors |= dict(zip(START, (live.down, live.up), strict=True))
    return tensors
