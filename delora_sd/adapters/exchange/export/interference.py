"""How much the updates of several adapters get in each other's way, per block of the UNet. Factors in, numbers out."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import torch
from torch import Tensor

from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer
from delora_sd.adapters.exchange.plain_lora.writing import PlainLayers

WHOLE = "whole UNet"
_BLOCK = re.compile(r"(?:down|up)_blocks\.\d+|mid_block")


@dataclass(frozen=True, kw_only=True)
class Interference:
    """Two updates in one block, its layers side by side."""

    block: str
    pair: tuple[int, int]
    """Positions of the two adapters."""
    norms: tuple[float, float]
    """||dW||_F of each."""
    cosine: float
    """<dWa, dWb> / (||dWa|| ||dWb||): 1 they add up, -1 they cancel, 0 neither."""
    row_overlap: float
    """||dWa dWb^T||^2 / (||dWa dWa^T|| ||dWb dWb^T||), 0..1: do they listen to the same inputs."""
    column_overlap: float
    """||dWa^T dWb||^2 / (||dWa^T dWa|| ||dWb^T dWb||), 0..1: do they write to the same outputs."""


@torch.no_grad()
def measure_interference(updates: Sequence[PlainLayers]) -> list[Interference]:
    """Returns the table, block by block and of the whole UNet, for every pair of adapters.

    Spaces weigh by the energy of their directions, so that a rank full of nearly nothing does not count.
    """
    rows = []
    for pair in combinations(range(len(updates)), 2):
        first, second = (updates[position] for position in pair)
        per_layer = {name: _layer_sums(first.get(name), second.get(name)) for name in [*first, *second]}
        blocks: dict[str, list[Tensor]] = {}
        for name in sorted(per_layer):
            blocks.setdefault(_block(name), []).append(per_layer[name])
        sums = {block: torch.stack(layers).sum(0) for block, layers in blocks.items()}
        sums[WHOLE] = torch.stack(list(per_layer.values())).sum(0)
        rows += [_row(block, pair, values.tolist()) for block, values in sums.items()]
    return rows


def _block(layer: str) -> str:
    found = _BLOCK.match(layer)
    return found.group() if found else layer.partition(".")[0]


def _layer_sums(first: PlainLayer | None, second: PlainLayer | None) -> Tensor:
    """<a,a>, <b,b>, <a,b>, then the squared norms of a a^T, b b^T, a b^T and of a^T a, b^T b, a^T b, in float64."""
    a, b = (None if layer is None else (layer.down.flatten(1).double(), layer.up.double()) for layer in (first, second))
    pairs = ((a, a), (b, b), (a, b))
    return torch.stack([measure(*pair) for measure in (_inner, _rows, _columns) for pair in pairs])


def _inner(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor] | None) -> Tensor:
    if first is None or second is None:
        return torch.zeros((), dtype=torch.float64)
    return ((first[0] @ second[0].mT) * (first[1].mT @ second[1])).sum()


def _rows(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor] | None) -> Tensor:
    if first is None or second is None:
        return torch.zeros((), dtype=torch.float64)
    return _product_square(first[1], first[0] @ second[0].mT, second[1])


def _columns(first: tuple[Tensor, Tensor] | None, second: tuple[Tensor, Tensor] | None) -> Tensor:
    if first is None or second is None:
        return torch.zeros((), dtype=torch.float64)
    return _product_square(first[0].mT, first[1].mT @ second[1], second[0].mT)


def _product_square(left: Tensor, middle: Tensor, right: Tensor) -> Tensor:
    """||left middle right^T||_F^2 without the dense product."""
    return (((left.mT @ left) @ middle @ (right.mT @ right)) * middle).sum()


def _row(block: str, pair: tuple[int, int], values: list[float]) -> Interference:
    aa, bb, ab, rows_a, rows_b, rows_ab, columns_a, columns_b, columns_ab = values
    return Interference(
        block=block,
        pair=pair,
        norms=(max(aa, 0.0) ** 0.5, max(bb, 0.0) ** 0.5),
        cosine=_share(ab, aa, bb),
        row_overlap=_share(rows_ab, rows_a, rows_b),
        column_overlap=_share(columns_ab, columns_a, columns_b),
    )


def _share(both: float, first: float, second: float) -> float:
    return both / (first * second) ** 0.5 if first > 0 and second > 0 else 0.0
