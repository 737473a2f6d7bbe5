"""Every method against the paper's equations written as loops: factors, merged weight and forward pass agree."""

import pytest
import torch
import torch.nn.functional as F
from adapter_cases import (
    CONVOLUTIONS,
    INITS,
    LAYER_KINDS,
    NORMALISED,
    OneLayer,
    adapted,
    config_of,
    kick,
    layer_input,
    naive_weight,
    small_unet,
    unet_output,
)  # fmt: skip

from delora_sd.adapters.lowrank.factors import Factors, dense_update, row_norms, update_norm
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import attach_adapters, detach
from delora_sd.adapters.lowrank.starts import weight_norms

TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 3e-2}
"""Largest absolute difference of outputs of size about 1."""

VARIANTS = [
    *((method, "frozen_copy", "column") for method in METHODS),
    *((method, init, norm) for method in NORMALISED for init in INITS[1:] for norm in ("column", "frobenius", "none")),
    ("delora", "frozen_copy", "frobenius"),
    ("delora", "frozen_copy", "none"),
]


def _config(method: str, init: str, norm: str):
    return config_of(method, init=init, weight_norm=norm, target_modules=("layer",))


def _naive(pack, weight):
    adapter = pack.adapters[0]
    return naive_weight(
        adapter.config, adapter.layer_tensors()["layer"], weight.flatten(1), adapter.specs()["layer"].alpha
    )


@pytest.mark.parametrize("kind", LAYER_KINDS)
@pytest.mark.parametrize(("method", "init", "norm"), VARIANTS)
def test_factors_equal_the_papers_equation(method, init, norm, kind):
    model = OneLayer(kind)
    weight = model.layer.weight.detach().clone()
    pack = adapted(model, _config(method, init, norm))
    factors = Factors(*(None if part is None else part[0].double() for part in model.layer.factors))
    ours = weight.double().flatten(1) + dense_update(factors, weight.double().flatten(1))
    naive = _naive(pack, weight)
    assert (naive - weight.flatten(1)).abs().max() > 1e-3
    torch.testing.assert_close(ours, naive, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("kind", LAYER_KINDS)
@pytest.mark.parametrize("method", METHODS)
def test_forward_equals_the_layer_with_the_merged_weight(method, kind, dtype):
    model = OneLayer(kind, dtype)
    frozen = model.layer
    pack = adapted(model, _config(method, "frozen_copy", "column"))
    x = layer_input(kind, dtype)
    merged = _naive(pack, frozen.weight.detach().float()).float().view_as(frozen.weight)
    bias = frozen.bias.float()
    expected = (
        F.linear(x.float(), merged, bias)
        if kind == "linear"
        else F.conv2d(x.float(), merged, bias, frozen.stride, frozen.padding)
    )
    found = model(x)
    assert found.dtype == dtype
    assert (found.float() - expected).abs().max() < TOLERANCE[dtype] * expected.abs().max().clamp_min(1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", LAYER_KINDS)
def test_pack_of_three_equals_three_single_adapters(method, kind):
    config, x = _config(method, "frozen_copy", "column"), layer_input(kind, samples=6)
    model = OneLayer(kind)
    pack = kick(attach_adapters(model, [config] * 3, seeds=[1, 2, 3]))
    pack.make_factors()
    together = model(x).detach()
    for index, share in enumerate(x.chunk(3)):
        single = OneLayer(kind)
        one = attach_adapters(single, [config], seeds=[index + 1])
        one.adapters[0].copy_from(pack.adapters[index].layer_tensors())
        one.make_factors()
        torch.testing.assert_close(single(share), together.chunk(3)[index], atol=2e-6, rtol=1e-5)
        with pack.only(index):
            torch.testing.assert_close(model(share), together.chunk(3)[index], atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("targets", [("to_q", "to_out.0"), CONVOLUTIONS])
@pytest.mark.parametrize(("method", "init", "norm"), VARIANTS)
def test_training_starts_at_the_base_model_where_claimed(method, init, norm, targets):
    unet = small_unet()
    base = unet_output(unet)
    config = config_of(method, init=init, weight_norm=norm, target_modules=targets)
    attach_adapters(unet, [config], seeds=[0]).make_factors()
    difference = (unet_output(unet) - base).abs().max()
    if METHODS[method].starts_at_identity:
        assert difference < 2e-6
    else:
        assert difference > 1e-2


def test_zero_up_starts_at_the_base_model_bit_for_bit():
    unet = small_unet()
    base = unet_output(unet)
    attach_adapters(unet, [config_of("delora", init="zero_up")], seeds=[0]).make_factors()
    assert torch.equal(unet_output(unet), base)


def test_ether_starts_at_a_reflection_of_distance_two():
    """||W - W H||_F = 2 ||W u|| for a unit u."""
    model = OneLayer("linear")
    weight = model.layer.weight.detach()
    pack = attach_adapters(model, [config_of("ether", target_modules=("layer",))], seeds=[0])
    u = pack.adapters[0].layer_tensors()["layer"]["u"]
    distance, _ = pack.distances()[0]["layer"]
    assert distance == pytest.approx(2 * (weight @ u / u.norm()).norm().item(), rel=1e-5)


def test_detach_puts_the_frozen_layers_back():
    unet = small_unet()
    base, names = unet_output(unet), list(unet.state_dict())
    adapted(unet, config_of("delora"))
    assert not torch.equal(unet_output(unet), base)
    detach(unet)
    assert torch.equal(unet_output(unet), base)
    assert list(unet.state_dict()) == names


def test_cleared_factors_leave_the_base_model():
    unet = small_unet()
    base = unet_output(unet)
    pack = adapted(unet, config_of("delora"))
    pack.clear_factors()
    assert torch.equal(unet_output(unet), base)


@pytest.mark.parametrize("method", METHODS)
def test_distance_is_the_norm_of_the_difference(method):
    model = OneLayer("linear")
    weight = model.layer.weight.detach().clone()
    pack = adapted(model, _config(method, "frozen_copy", "column"))
    distance, relative = pack.distances()[0]["layer"]
    expected = (_naive(pack, weight) - weight.double()).norm().item()
    assert distance == pytest.approx(expected, rel=1e-4)
    assert relative == pytest.approx(expected / weight.norm().item(), rel=1e-4)


def test_distance_at_the_start_is_zero_though_two_large_updates_cancel():
    pack = attach_adapters(OneLayer("linear"), [config_of("delora", target_modules=("layer",))], seeds=[0])
    distance, _ = pack.distances()[0]["layer"]
    assert distance < 1e-6


def test_row_norms_expand_the_square():
    generator = torch.Generator().manual_seed(0)
    down, up, weight = (torch.randn(shape, generator=generator) for shape in ((2, 3, 8), (2, 5, 3), (5, 8)))
    expected = (weight + up @ down).norm(dim=-1)
    torch.testing.assert_close(row_norms(down, up, weight), expected, atol=1e-5, rtol=1e-5)
    assert update_norm(Factors(down, up), weight).shape == (2,)


def test_weight_norm_of_a_convolution_is_per_input_channel_and_kernel_position():
    weight = OneLayer("conv3x3").layer.weight.detach()
    norms = weight_norms(weight.flatten(1), "column").view(6, 3, 3)
    for channel in range(6):
        for y in range(3):
            for x in range(3):
                expected = sum(float(weight[out, channel, y, x]) ** 2 for out in range(9)) ** 0.5
                assert norms[channel, y, x].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("norm", "expected"), [("column", 0.5 * 12**0.5), ("frobenius", 0.5)])
def test_relative_boundary_is_the_papers_lambda_over_the_width(norm, expected):
    config = config_of("delora", weight_norm=norm, target_modules=("layer",))
    pack = attach_adapters(OneLayer("linear"), [config], seeds=[0])
    assert pack.adapters[0].boundaries()["layer"] == pytest.approx(expected, rel=1e-6)


def test_relative_boundary_without_a_norm_is_measured_in_the_weights_norm():
    model = OneLayer("linear")
    pack = attach_adapters(model, [config_of("normalized_lora", target_modules=("layer",))], seeds=[0])
    expected = 0.5 * model.layer.base.weight.norm().item()
    assert pack.adapters[0].boundaries()["layer"] == pytest.approx(expected, rel=1e-5)


def test_a_start_depends_on_seed_and_layer_only():
    configs = [config_of("delora", target_modules=targets) for targets in (("to_q",), ("to_k", "to_q"))]
    few, many = (attach_adapters(small_unet(), [config], seeds=[7]).adapters[0].layer_tensors() for config in configs)
    for layer, tensors in few.items():
        assert all(torch.equal(value, many[layer][name]) for name, value in tensors.items())
    other = attach_adapters(small_unet(), [configs[0]], seeds=[8]).adapters[0].layer_tensors()
    assert not any(torch.equal(tensors["A"], other[layer]["A"]) for layer, tensors in few.items())
