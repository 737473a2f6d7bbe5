"""A frozen layer that adds the updates of K stacked adapters; samples come adapter-major.

Shapes: K adapters, B samples in all (B / K each, adapter 0's first), R rank of the factors.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from delora_sd.adapters.lowrank.factors import Factors
from delora_sd.quantization import dense_weight


class AdaptedLinear(nn.Module):
    """y = W x + b + up (down x) for each adapter's own samples; exactly the frozen layer while `factors` is None."""

    def __init__(self, base: nn.Linear):
        super().__init__()
        self.base = base
        self.dropout = 0.0
        """Share of the update's input set to zero while training; the frozen layer sees all of it."""
        self.factors: Factors | None = None
        self.trained: Factors | None = None
        """The first terms of `factors`, where a frozen start follows them: they alone get gradients. None: all do."""

    def set_factors(self, factors: Factors | None, trained: Factors | None = None) -> None:
        self.factors, self.trained = factors, trained

    def forward(self, x: Tensor) -> Tensor:
        if self.factors is None:
            return self.base(x)
        down, up, scale = self.factors  # (K, R, in), (K, out, R), (K, out)
        rows = x.reshape(down.shape[0], -1, x.shape[-1])
        if self.training and self.dropout:
            down, up = self._differentiable(down, up)
            y = self.base(rows) + F.dropout(rows, self.dropout) @ down.mT @ up.mT
        else:
            trained = (None, None) if self.trained is None else self.trained[:2]
            y = _AddUpdate.apply(rows, self.base, down, up, *trained)
        if scale is not None:
            y = _scale_rows(y, scale.unsqueeze(1), self.base.bias)
        return y.view(*x.shape[:-1], y.shape[-1])

    def _differentiable(self, down: Tensor, up: Tensor) -> tuple[Tensor, Tensor]:
        """Returns the factors with the trained terms in place of their copies, which no gradient passes."""
        if self.trained is None:
            return down, up
        rank = self.trained.down.shape[-2]
        return (
            torch.cat([self.trained.down, down[..., rank:, :]], dim=-2),
            torch.cat([self.trained.up, up[..., rank:]], dim=-1),
        )


class AdaptedConv2d(nn.Module):
    """The convolution's twin: down is a k x k convolution to R channels, up a 1 x 1; one group per adapter."""

    def __init__(self, base: nn.Conv2d):
        super().__init__()
        self.base = base
        self.factors: Factors | None = None

    def set_factors(self, factors: Factors | None, trained: Factors | None = None) -> None:
        """`trained` says nothing here: a convolution's gradients go through `factors`."""
        self.factors = factors

    def forward(self, x: Tensor) -> Tensor:
        y = self.base(x)
        if self.factors is None:
            return y
        down, up, scale = self.factors  # (K, R, in * kh * kw), (K, out, R), (K, out)
        num_adapters, rank = down.shape[:2]
        base = self.base
        kernel = down.reshape(num_adapters * rank, base.in_channels, *base.kernel_size)
        hidden = F.conv2d(
            _side_by_side(x, num_adapters), kernel, None, base.stride, base.padding, base.dilation, num_adapters
        )
        kernel_up = up.reshape(num_adapters * base.out_channels, rank, 1, 1)
        update = _one_below_another(F.conv2d(hidden, kernel_up, groups=num_adapters), num_adapters)
        if scale is None:
            return y + update
        per_sample = scale.repeat_interleave(x.shape[0] // num_adapters, 0)[..., None, None]
        bias = None if base.bias is None else base.bias[:, None, None]
        return _scale_rows(y + update, per_sample, bias)


AdaptedLayer = AdaptedLinear | AdaptedConv2d


def adapt_layer(layer: nn.Module) -> AdaptedLayer:
    return AdaptedConv2d(layer) if isinstance(layer, nn.Conv2d) else AdaptedLinear(layer)


def flat_weight(layer: nn.Module) -> Tensor:
    """Returns the frozen weight as (out, in); a k x k convolution as (out, in * k * k)."""
    return dense_weight(layer).flatten(1)


class _AddUpdate(torch.autograd.Function):
    """base(x) + up (down x) for x (K, rows, in): two thin products, the second added into the base's output.

    One node where autograd would make five: x gets both its gradients in one product, frozen terms get none, and
    nothing of the weight's size is made. `trained_down` and `trained_up` are the first terms of `down` and `up` again,
    and take their gradients; None: all terms are trained. Differentiable once.
    """

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        base: nn.Linear,
        down: Tensor,
        up: Tensor,
        trained_down: Tensor | None,
        trained_up: Tensor | None,
    ) -> Tensor:
        hidden = x @ down.mT  # (K, rows, R)
        ctx.base, ctx.num_trained = base, None if trained_down is None else trained_down.shape[-2]
        ctx.save_for_backward(x, down, up, hidden)
        return base(x).baddbmm_(hidden, up.mT)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, down, up, hidden = ctx.saved_tensors
        grad_hidden = grad @ up
        grad_x = (grad @ dense_weight(ctx.base)).baddbmm_(grad_hidden, down) if ctx.needs_input_grad[0] else None
        grad_down = grad_hidden[..., : ctx.num_trained].mT @ x
        grad_up = (hidden[..., : ctx.num_trained].mT @ grad).mT
        if ctx.num_trained is None:
            return grad_x, None, grad_down, grad_up, None, None
        return grad_x, None, None, None, grad_down, grad_up


def _scale_rows(y: Tensor, scale: Tensor, bias: Tensor | None) -> Tensor:
    """Scales the weight's rows, not the bias (DoRA): scale * (y - b) + b.

    `scale` is fp32: a magnitude learns in steps below what bf16 can tell from 1.
    """
    scaled = y * scale if bias is None else y * scale + bias * (1 - scale)
    return scaled.to(y.dtype)


def _side_by_side(x: Tensor, num_adapters: int) -> Tensor:
    """(K * b, c, h, w) -> (b, K * c, h, w): each adapter becomes a channel group."""
    return x.unflatten(0, (num_adapters, -1)).transpose(0, 1).flatten(1, 2)


def _one_below_another(x: Tensor, num_adapters: int) -> Tensor:
    return x.unflatten(1, (num_adapters, -1)).transpose(0, 1).flatten(0, 1)
