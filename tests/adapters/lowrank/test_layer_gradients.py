"""The fused layer against the dense formula in float64: outputs and every gradient, with and without a frozen start."""

import pytest
import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.factors import Factors, without_start
from delora_sd.adapters.lowrank.layers import AdaptedLinear

IN, OUT, ROWS, RANK = 7, 5, 4, 3


def _random(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _layer() -> AdaptedLinear:
    torch.manual_seed(0)
    return AdaptedLinear(nn.Linear(IN, OUT, dtype=torch.float64).requires_grad_(False))


def _inputs(num_adapters: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns leaves x (K * 2, rows, in), down (K, r, in), up (K, out, r)."""
    shapes = ((2 * num_adapters, ROWS, IN), (num_adapters, RANK, IN), (num_adapters, OUT, RANK))
    return tuple(_random(*shape, seed=seed).requires_grad_() for seed, shape in enumerate(shapes))


def _start(num_adapters: int) -> tuple[Tensor, Tensor]:
    return _random(num_adapters, RANK, IN, seed=8), _random(num_adapters, OUT, RANK, seed=9)


def _give(layer: AdaptedLinear, down: Tensor, up: Tensor, *, has_start: bool) -> None:
    live = Factors(down, up)
    layer.factors = without_start(live, *_start(len(down))) if has_start else live
    layer.trained = live if has_start else None


def _dense(layer: AdaptedLinear, x: Tensor, down: Tensor, up: Tensor, *, has_start: bool) -> Tensor:
    """Each adapter's samples through its own dense weight."""
    update = up @ down
    if has_start:
        start_down, start_up = _start(len(down))
        update = update - start_up @ start_down
    shares = zip(x.chunk(len(down)), update, strict=True)
    return torch.cat([share @ (layer.base.weight + one).T + layer.base.bias for share, one in shares])


@pytest.mark.parametrize("has_start", [False, True])
@pytest.mark.parametrize("num_adapters", [1, 3])
def test_output_and_gradients_equal_the_dense_weights(num_adapters: int, has_start: bool):
    layer, inputs = _layer(), _inputs(num_adapters)
    _give(layer, *inputs[1:], has_start=has_start)
    ours, theirs = layer(inputs[0]), _dense(layer, *inputs, has_start=has_start)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    upstream = _random(*ours.shape, seed=4)
    found, expected = torch.autograd.grad(ours, inputs, upstream), torch.autograd.grad(theirs, inputs, upstream)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("has_start", [False, True])
@pytest.mark.parametrize("num_adapters", [1, 3])
def test_gradients_equal_finite_differences(num_adapters: int, has_start: bool):
    layer = _layer()

    def output(x: Tensor, down: Tensor, up: Tensor) -> Tensor:
        _give(layer, down, up, has_start=has_start)
        return layer(x)

    assert torch.autograd.gradcheck(output, _inputs(num_adapters))


def test_an_input_without_gradient_costs_none():
    """Text embeddings and the UNet's first layer: the product with the frozen weight is left out of the backward."""
    layer, (x, down, up) = _layer(), _inputs(1)
    _give(layer, down, up, has_start=False)
    frozen_input = x.detach()
    layer(frozen_input).sum().backward()
    assert frozen_input.grad is None
    assert down.grad.abs().max() > 0 and up.grad.abs().max() > 0


def test_a_second_derivative_is_refused_not_wrong():
    layer, (x, down, up) = _layer(), _inputs(1)
    _give(layer, down, up, has_start=False)
    (first,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor:UserWarning")  # TorchDynamo looks at inputs' grads
@pytest.mark.parametrize("has_start", [False, True])
def test_compiles_into_one_graph(has_start: bool):
    """`fullgraph` raises on a graph break, which every adapted layer of a UNet would repeat."""
    layer, inputs = _layer(), _inputs(1)
    _give(layer, *inputs[1:], has_start=has_start)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=False)
    found = torch.autograd.grad(compiled(inputs[0]).square().sum(), inputs)
    torch.testing.assert_close(found, torch.autograd.grad(layer(inputs[0]).square().sum(), inputs))
