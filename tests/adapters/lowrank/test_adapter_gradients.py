"""Gradients against finite differences, and what they reach; the symmetries are in test_adapter_properties.py."""

import pytest
import torch
from adapter_cases import OneLayer, config_of, kick
from torch import Tensor

from delora_sd.adapters.lowrank import factors as formulas
from delora_sd.adapters.lowrank.factors import dense_update
from delora_sd.adapters.lowrank.methods import METHODS, make_factors, trained_names
from delora_sd.adapters.lowrank.pack import attach_adapters


def _doubles(method: str, **changes) -> tuple[dict[str, Tensor], Tensor, object, object]:
    """Returns (tensors, weight, config, spec) of a kicked layer in float64."""
    model = OneLayer("linear")
    config = config_of(method, target_modules=("layer",), **changes)
    pack = kick(attach_adapters(model, [config], seeds=[0]))
    adapter = pack.adapters[0]
    tensors = {name: value.double() for name, value in adapter.layer_tensors()["layer"].items()}
    return tensors, model.layer.base.weight.detach().double(), config, adapter.specs()["layer"]


@pytest.mark.parametrize("method", METHODS)
def test_gradients_equal_finite_differences(method, monkeypatch):
    tensors, weight, config, spec = _doubles(method)
    names = trained_names(config)
    if method == "dora":  # its norm is detached: finite differences must see it frozen too
        down, up, _ = formulas.lora_factors(tensors["A"], tensors["B"], alpha=spec.alpha)
        frozen = formulas.row_norms(down, up, weight)
        monkeypatch.setattr(formulas, "row_norms", lambda down, up, weight: frozen)

    def merged(*values: Tensor) -> Tensor:
        changed = tensors | dict(zip(names, values, strict=True))
        return weight + dense_update(make_factors(changed, config, spec, weight)[0], weight)

    inputs = [tensors[name].clone().requires_grad_() for name in names]
    assert torch.autograd.gradcheck(merged, inputs, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
def test_training_reaches_every_trained_tensor_and_nothing_frozen(method):
    model = OneLayer("linear")
    pack = kick(attach_adapters(model, [config_of(method, target_modules=("layer",))], seeds=[0]))
    pack.make_factors()
    model(torch.randn(3, 12)).square().sum().backward()
    assert all(parameter.grad.abs().max() > 0 for _, parameter in pack.adapters[0].parameters_by_name())
    assert all(parameter.grad is None for parameter in model.layer.base.parameters())


def test_fixed_magnitude_trains_only_the_directions():
    config = config_of("dora", target_modules=("layer",), train_magnitude=False)
    pack = attach_adapters(OneLayer("linear"), [config], seeds=[0])
    assert [name for name, _ in pack.adapters[0].parameters_by_name()] == ["A", "B"]
    assert "magnitude" in pack.adapters[0].layer_tensors()["layer"]


def test_mirrored_twins_start_with_a_gradient_for_both_directions():
    """No component waits for another: zero_up gives A no gradient at step 0, mirrored gives A and B one."""
    grads = {}
    for init in ("mirrored", "zero_up"):
        model = OneLayer("linear")
        pack = attach_adapters(model, [config_of("delora", init=init, target_modules=("layer",))], seeds=[0])
        pack.make_factors()
        model(torch.ones(3, 12)).square().sum().backward()
        grads[init] = {name: parameter.grad.abs().max().item() for name, parameter in
                       pack.adapters[0].parameters_by_name()}  # fmt: skip
    assert grads["mirrored"]["A"] > 1e-4 and grads["mirrored"]["B"] > 1e-4
    assert grads["zero_up"]["A"] == 0 and grads["zero_up"]["boundary"] == 0
    assert grads["zero_up"]["B"] > 100 * grads["mirrored"]["B"]
