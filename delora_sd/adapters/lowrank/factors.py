"""The mathematics of the family: parameters + frozen weight -> exact low-rank factors, one function per formula.

Torch convention: the frozen weight W is (out, in) and acts as y = W x. The paper writes W as (in, out) and y = W^T x,
so its left-hand transformations H W act on the input side here: W H.
Every function accepts leading axes `...` (layers, adapters); none builds the dense update.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

MIN_NORM = 1e-4
"""Smallest norm a vector is divided by, as in peft's DeLoRA: decides how `init=zero_up` leaves zero."""

_SMALLEST = 1e-30
"""A norm below this is zero: the pair is then zero whatever its partner is."""


class Factors(NamedTuple):
    """The update dW = up @ down; with `scale` (DoRA) the weight becomes scale * (W + up @ down), row by row."""

    down: Float[Tensor, "... rank in"]
    up: Float[Tensor, "... out rank"]
    scale: Float[Tensor, "... out"] | None = None


def lora_factors(A: Float[Tensor, "... r in"], B: Float[Tensor, "... out r"], *, alpha: float) -> Factors:
    """dW = (alpha / r) B A (Eq. 1)."""
    return Factors(A, B * (alpha / A.shape[-2]))


def delora_factors(
    A: Float[Tensor, "... r in"],
    B: Float[Tensor, "... out r"],
    boundary: Float[Tensor, "..."],
    weight_norm: Float[Tensor, "... in"],
) -> Factors:
    """dW = (lambda ||W|| / r) B Xi A, Xi_ii = 1 / (||b_i|| ||a_i||) (Eq. 8, 15); norm <= lambda max(weight_norm)."""
    down = F.normalize(A, dim=-1, eps=MIN_NORM) * weight_norm.unsqueeze(-2)
    norm = B.norm(dim=-2).clamp_min(MIN_NORM)
    up = B * (boundary.unsqueeze(-1) / (A.shape[-2] * norm)).unsqueeze(-2)  # one pass over B, not two
    return Factors(down, up)


def without_start(live: Factors, start_down: Tensor, start_up: Tensor) -> Factors:
    """Subtracts the frozen update of time 0 by concatenation, exact at twice the rank (Eq. 9)."""
    return Factors(torch.cat([live.down, start_down], dim=-2), torch.cat([live.up, -start_up], dim=-1))


def stacked_rows(parts: Sequence[Factors]) -> Factors:
    """The update whose output rows are those of `parts`, one below another: exact at the sum of their ranks."""
    ranks = [part.down.shape[-2] for part in parts]
    before = [sum(ranks[:number]) for number in range(len(parts))]
    up = [
        F.pad(part.up, (first, sum(ranks) - first - rank))
        for part, first, rank in zip(parts, before, ranks, strict=True)
    ]
    return Factors(torch.cat([part.down for part in parts], dim=-2), torch.cat(up, dim=-2))


def dora_factors(
    A: Float[Tensor, "... r in"],
    B: Float[Tensor, "... out r"],
    magnitude: Float[Tensor, "... out"],
    *,
    alpha: float,
    weight: Float[Tensor, "out in"],
) -> Factors:
    """W' = m (W + (alpha/r) B A) / ||W + (alpha/r) B A||, norm per row, detached (Liu et al. 2024, Eq. 5, 11)."""
    down, up, _ = lora_factors(A, B, alpha=alpha)
    with torch.no_grad():
        norm = row_norms(down, up, weight)
    return Factors(down, up, magnitude / norm)


def row_norms(down: Tensor, up: Tensor, weight: Float[Tensor, "out in"]) -> Float[Tensor, "... out"]:
    """||(W + up down)_i|| for every output row i, without the dense sum, by expanding the square."""
    cross = ((weight @ down.mT) * up).sum(-1)
    square = ((up @ (down @ down.mT)) * up).sum(-1)
    return (weight.square().sum(-1) + 2 * cross + square).clamp_min(MIN_NORM**2).sqrt()


def ether_factors(u: Float[Tensor, "... in"], *, weight: Float[Tensor, "out in"]) -> Factors:
    """W' = W H, H = I - 2 u u^T with unit u: a reflection of the input (Bini et al. 2024; Eq. 2)."""
    unit = F.normalize(u, dim=-1)
    return Factors(unit.unsqueeze(-2), -2 * (unit @ weight.T).unsqueeze(-1))


def reflection_pair_factors(
    U: Float[Tensor, "... half in"],
    V: Float[Tensor, "... half in"],
    boundary: Float[Tensor, "..."],
    *,
    weight: Float[Tensor, "out in"],
) -> Factors:
    """W' = W (I - (lambda/r) (U Sigma U^T - V Theta V^T)), r = 2 half, rows normalised (Eq. 10 for half = 1; Eq. 14).

    With half = 1 and lambda = 2 this is ETHER+ one-sided (Eq. 2).
    """
    return product_pair_factors(U, U, V, V, boundary, weight=weight)


def product_pair_factors(
    A: Float[Tensor, "... half in"],
    B: Float[Tensor, "... half in"],
    C: Float[Tensor, "... half in"],
    D: Float[Tensor, "... half in"],
    boundary: Float[Tensor, "..."],
    *,
    weight: Float[Tensor, "out in"],
) -> Factors:
    """W' = W (I - (lambda/r) (B Xi A - D Phi C))^T, r = 2 half: the multiplicative DeLoRA (Sec. 2.2, relaxed)."""
    down = F.normalize(torch.cat([B, D], dim=-2), dim=-1)
    turned = F.normalize(torch.cat([-A, C], dim=-2), dim=-1)
    scale = (boundary / (2 * A.shape[-2]))[..., None, None]
    return Factors(down, (turned @ weight.T).mT * scale)


def ether_plus_factors(
    u: Float[Tensor, "... in"],
    v: Float[Tensor, "... in"],
    u_out: Float[Tensor, "... out"],
    v_out: Float[Tensor, "... out"],
    *,
    weight: Float[Tensor, "out in"],
) -> Factors:
    """W' = H~ W H, H = I - u u^T + v v^T on inputs, H~ the same on outputs (Eq. 2), expanded to rank 4."""
    right = torch.stack([F.normalize(u, dim=-1), F.normalize(v, dim=-1)], dim=-2)  # (..., 2, in)
    left = torch.stack([F.normalize(u_out, dim=-1), F.normalize(v_out, dim=-1)], dim=-2)  # (..., 2, out)
    signs = torch.tensor([-1.0, 1.0], device=u.device, dtype=u.dtype)
    turned_right = (right @ weight.T).mT * signs  # W (H - I) = turned_right @ right
    turned_left = left @ weight  # (H~ - I) W = (signed left^T) @ turned_left
    signed_left = left.mT * signs
    both = signed_left @ (turned_left @ right.mT * signs)  # (H~ - I) W (H - I) = both @ right
    return Factors(torch.cat([right, turned_left], dim=-2), torch.cat([turned_right + both, signed_left], dim=-1))


def dense_update(factors: Factors, weight: Float[Tensor, "out in"]) -> Float[Tensor, "... out in"]:
    """W' - W, dense: for merging, never for training."""
    product = factors.up @ factors.down
    if factors.scale is None:
        return product
    return factors.scale.unsqueeze(-1) * (weight + product) - weight


def update_norm(factors: Factors, weight: Float[Tensor, "out in"]) -> Float[Tensor, "..."]:
    """||W' - W||_F: the Euclidean distance from the pretrained layer (Figs. 2, 3), in float64: a start cancels."""
    factors = Factors(*(None if part is None else part.double() for part in factors))
    if factors.scale is not None:
        return dense_update(factors, weight.double()).flatten(-2).norm(dim=-1)
    gram = (factors.up.mT @ factors.up) * (factors.down @ factors.down.mT)
    return gram.flatten(-2).sum(-1).clamp_min(0).sqrt()


def balanced(factors: Factors) -> Factors:
    """Returns the same update with ||down_i|| = ||up_i|| for every rank-1 term i.

    Casting to fp16 then costs a relative error of 3e-4 whatever the sizes were; unbalanced factors whose `up` is 1e-4
    of normal lose 0.19.
    """
    down, up, scale = factors
    down_norm = down.norm(dim=-1).double().clamp_min(_SMALLEST)  # (..., rank)
    up_norm = up.norm(dim=-2).double().clamp_min(_SMALLEST)
    shift = (up_norm / down_norm).sqrt()
    return Factors(_times(down, shift.unsqueeze(-1)), _times(up, 1 / shift.unsqueeze(-2)), scale)


def merged_terms(factors: Factors) -> tuple[Factors, Tensor]:
    """Returns (the same update in orthogonal terms of falling size, both factors of one size; their sizes).

    Terms that cancel each other (a frozen copy, twins) are summed before a cast can round them apart: what fp16 loses
    falls from up to 5.4e-3 of the change to below 1e-3. An SVD of the update, by QR of its thin factors, in float64.
    """
    down, up = factors.down.double(), factors.up.double()
    up_basis, up_mix = torch.linalg.qr(up)  # (out, k), (k, rank)
    down_basis, down_mix = torch.linalg.qr(down.mT)  # (in, l), (l, rank)
    left, singular, right = torch.linalg.svd(up_mix @ down_mix.mT, full_matrices=False)
    root = singular.sqrt()
    merged = Factors((root.unsqueeze(-1) * (right @ down_basis.mT)).float(), (up_basis @ left * root).float())
    return merged, singular


def _times(value: Tensor, factor: Tensor) -> Tensor:
    return (value.double() * factor).to(value.dtype)
