"""With optimizer.angular the rate is the angle of a step, at every width and step, and nothing else changes."""

import math

import pytest
import torch
from torch import Tensor

from delora_sd.adapters.lowrank.adapter import Adapter, create_adapter, layer_factors
from delora_sd.adapters.lowrank.factors import dense_update
from delora_sd.adapters.lowrank.methods import METHODS, make_factors
from delora_sd.errors import UserError
from delora_sd.settings import AdapterConfig, OptimizerConfig
from delora_sd.training.loop.angular import check_angular, keep_directions, start_directions
from delora_sd.training.loop.optimization import build_optimizer

SCALE_FREE = sorted(name for name, method in METHODS.items() if method.directions)
EPS = torch.finfo(torch.float32).eps


def make_adapter(width: int, method: str = "delora", **settings) -> tuple[Adapter, Tensor]:
    weight = torch.randn(width, width, generator=torch.Generator().manual_seed(width))
    return create_adapter(AdapterConfig(method=method, rank=4, **settings), {"to_q": weight}, seed=1), weight


def angles(before: Tensor, after: Tensor, axis: int) -> Tensor:
    cosine = torch.nn.functional.cosine_similarity(before.double(), after.double(), dim=axis)
    return cosine.clamp(-1, 1).arccos()


def turn(adapter: Adapter, weight: Tensor, settings: OptimizerConfig, steps: int) -> list[float]:
    """The mean angle of A's rows at every step, under a loss that keeps pulling in new directions."""
    optimizer = build_optimizer([(adapter, settings)], torch.device("cpu"))
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(steps):
        before = adapter.group_tensors(0)["A"].detach().clone()
        factors = layer_factors(adapter.config, adapter.groups[0].spec, adapter.group_tensors(0), weight)
        pull = torch.randn(weight.shape, generator=generator)
        (dense_update(factors, weight) * pull).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append(float(angles(before, adapter.group_tensors(0)["A"].detach(), -1).mean()))
    return found


@pytest.mark.parametrize("width", [32, 512])
def test_the_first_step_turns_every_row_by_the_rate_whatever_the_width(width: int):
    adapter, weight = make_adapter(width)
    start_directions(adapter)
    assert turn(adapter, weight, OptimizerConfig(angular=True, lr=0.05), 1)[0] == pytest.approx(0.05, rel=0.05)


def test_the_plain_rate_turns_wide_and_narrow_layers_by_other_angles_and_ever_less():
    first = [turn(*make_adapter(width), OptimizerConfig(lr=0.02), 1)[0] for width in (32, 512)]
    assert first[1] > 2 * first[0]
    plain = turn(*make_adapter(64), OptimizerConfig(lr=0.05), 60)
    adapter, weight = make_adapter(64)
    start_directions(adapter)
    angular = turn(adapter, weight, OptimizerConfig(angular=True, lr=0.05), 60)
    assert sum(plain[40:]) / sum(plain[:20]) < 0.8 * sum(angular[40:]) / sum(angular[:20])


@pytest.mark.parametrize("method", SCALE_FREE)
def test_lengths_are_kept_and_the_update_is_not_changed_by_keeping_them(method: str):
    adapter, weight = make_adapter(24, method)
    config, spec = adapter.config, adapter.groups[0].spec
    for _, parameter in adapter.parameters_by_name():
        parameter.data.mul_(3.0).add_(0.01)
    before = layer_factors(config, spec, adapter.group_tensors(0), weight)
    keep_directions(adapter)
    after = layer_factors(config, spec, adapter.group_tensors(0), weight)
    torch.testing.assert_close(
        dense_update(after, weight), dense_update(before, weight), rtol=0, atol=64 * EPS * weight.norm().item()
    )
    for name, axis in METHODS[method].directions.items():
        squares = adapter.group_tensors(0)[name].detach().double().square().mean(axis)
        torch.testing.assert_close(squares, torch.ones_like(squares), rtol=0, atol=16 * EPS)


@pytest.mark.parametrize("init", ["frozen_copy", "mirrored"])
def test_an_angular_start_is_exactly_the_pretrained_model(init: str):
    adapter, weight = make_adapter(24, init=init)
    start_directions(adapter)
    whole, _ = make_factors(adapter.group_tensors(0), adapter.config, adapter.groups[0].spec, weight)
    assert float(dense_update(whole, weight).detach().abs().max()) <= 4 * EPS * weight.norm().item()


def test_boundaries_keep_their_own_rate_and_directions_are_not_decayed():
    adapter, _ = make_adapter(24)
    optimizer = build_optimizer(
        [(adapter, OptimizerConfig(angular=True, boundary_lr=5e-2, weight_decay=0.1))], torch.device("cpu")
    )
    assert sorted((group["lr"], group["weight_decay"]) for group in optimizer.param_groups) == [(5e-2, 0.0), (0.1, 0.0)]


@pytest.mark.parametrize("method", ["lora", "dora", "full", "oft"])
def test_methods_whose_lengths_matter_are_refused_by_name(method: str):
    with pytest.raises(UserError, match=f"the lengths of {method}'s tensors matter"):
        check_angular(AdapterConfig(method=method))


def test_a_start_without_direction_is_refused():
    with pytest.raises(UserError, match="zero_up"):
        check_angular(AdapterConfig(init="zero_up"))
    assert math.isfinite(METHODS["delora"].lr) and check_angular(AdapterConfig()) is None
