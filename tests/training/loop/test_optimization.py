"""Rates, schedules and clipping are each adapter's own."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from delora_sd.adapters.lowrank.adapter import create_adapter
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.settings import AdapterConfig, OptimizerConfig
from delora_sd.training.loop.optimization import (
    build_optimizer,
    clip_gradients,
    learning_rate,
    schedule_factor,
    set_learning_rates,
)


def make_adapter(seed: int = 0, method: str = "delora") -> nn.Module:
    weights = {"to_q": torch.randn(8, 8), "to_k": torch.randn(8, 12)}
    return create_adapter(AdapterConfig(method=method, rank=2), weights, seed=seed)


def test_boundary_has_its_own_rate_and_no_decay():
    config = OptimizerConfig(lr=2e-2, boundary_lr=1e-3, weight_decay=0.1)
    adapter = make_adapter()
    optimizer = build_optimizer([(adapter, config)], torch.device("cpu"))
    rates = {id(p): (g["lr"], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]}
    for name, parameter in adapter.parameters_by_name():
        assert rates[id(parameter)] == ((1e-3, 0.0) if name == "boundary" else (2e-2, 0.1))


def test_magnitude_has_its_own_rate_when_one_is_given_and_the_directions_report_theirs():
    own = OptimizerConfig(lr=2e-2, magnitude_lr=5e-4, weight_decay=0.0)
    adapter, other = make_adapter(method="dora"), make_adapter(method="dora")
    optimizer = build_optimizer([(adapter, own), (other, replace(own, magnitude_lr=None))], torch.device("cpu"))
    rates = {id(p): g["lr"] for g in optimizer.param_groups for p in g["params"]}
    names = [name for name, _ in adapter.parameters_by_name()]
    assert "magnitude" in names
    for name, parameter in adapter.parameters_by_name():
        assert rates[id(parameter)] == (5e-4 if name == "magnitude" else 2e-2)
    assert {rates[id(parameter)] for parameter in other.parameters()} == {2e-2}
    assert learning_rate(optimizer, adapter) == 2e-2


def test_rate_left_open_is_the_methods_own():
    optimizer = build_optimizer([(make_adapter(method="lora"), OptimizerConfig())], torch.device("cpu"))
    assert METHODS["lora"].lr in [group["lr"] for group in optimizer.param_groups]


def test_each_adapter_follows_its_own_schedule():
    cosine = OptimizerConfig(lr=1.0, schedule="cosine")
    linear = OptimizerConfig(lr=1.0, schedule="linear", warmup_steps=4)
    first, second = make_adapter(0), make_adapter(1)
    optimizer = build_optimizer([(first, cosine), (second, linear)], torch.device("cpu"))
    set_learning_rates(optimizer, 5, 10)
    assert learning_rate(optimizer, first) == pytest.approx(0.5)
    assert learning_rate(optimizer, second) == pytest.approx(1 - 1 / 6)


@pytest.mark.parametrize("schedule", ["constant", "linear", "cosine"])
def test_schedules_rise_through_warm_up_and_stay_in_range(schedule: str):
    config = OptimizerConfig(schedule=schedule, warmup_steps=5)
    factors = [schedule_factor(config, step, 50) for step in range(50)]
    assert factors[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert all(0 < factor <= 1 for factor in factors)
    assert schedule == "constant" or factors[-1] < 0.05


def test_clipping_limits_one_adapter_and_reports_the_norm_before():
    adapter = make_adapter()
    for parameter in adapter.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    count = adapter.num_parameters()
    assert clip_gradients(adapter, 1.0, 1.0).item() == pytest.approx(3.0 * math.sqrt(count), rel=1e-5)
    clipped = math.sqrt(sum(parameter.grad.square().sum().item() for parameter in adapter.parameters()))
    assert clipped == pytest.approx(1.0, rel=1e-4)


def test_loss_scale_is_taken_out_before_clipping():
    adapter = make_adapter()
    for parameter in adapter.parameters():
        parameter.grad = torch.full_like(parameter, 64.0)
    norm = clip_gradients(adapter, 0.0, 64.0)
    assert norm.item() == pytest.approx(math.sqrt(adapter.num_parameters()), rel=1e-5)


def test_fixed_magnitude_is_not_trained():
    config = AdapterConfig(method="dora", rank=2, train_magnitude=False)
    adapter = create_adapter(config, {"to_q": torch.randn(8, 8)}, seed=0)
    assert [name for name, _ in adapter.parameters_by_name()] == ["A", "B"]
