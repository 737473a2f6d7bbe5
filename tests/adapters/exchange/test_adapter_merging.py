"""Merging: the same images as the adapted layers, any strength, any sum, and every bit back afterwards."""

import warnings

import pytest
import torch
from adapter_cases import ATTENTION, CONVOLUTIONS, adapted, config_of, kick, small_unet, unet_output

from delora_sd.adapters.attach import attach_method
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.stored.formats import save_adapter
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder


def _folder(path, config, *, seed=0):
    unet = small_unet()
    pack = kick(attach_method(unet, [config], seeds=[seed]), seed=seed, size=0.01 if config.method == "full" else 0.2)
    with torch.no_grad():
        pack.make_factors()
    save_adapter(pack.adapters[0], path, base="owner/base")
    return path, unet


@pytest.mark.parametrize("targets", [ATTENTION, CONVOLUTIONS])
@pytest.mark.parametrize("method", METHODS)
def test_merged_equals_adapted(tmp_path, method, targets):
    path, adapted_unet = _folder(tmp_path / "a", config_of(method, target_modules=targets))
    unet = small_unet()
    with merged_adapters(unet, {path: 1.0}):
        assert (unet_output(unet) - unet_output(adapted_unet)).abs().max() < 1e-5


@pytest.mark.parametrize("method", ["delora", "dora", "full", "oft"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_every_bit_is_restored(tmp_path, method, dtype):
    path, _ = _folder(tmp_path / "a", config_of(method))
    unet = small_unet(dtype=dtype)
    before = {name: value.clone() for name, value in unet.state_dict().items()}
    with pytest.raises(KeyboardInterrupt), merged_adapters(unet, {path: 1.3}):
        assert any(not torch.equal(value, before[name]) for name, value in unet.state_dict().items())
        raise KeyboardInterrupt
    assert unet.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in unet.state_dict().items())


def test_strength_zero_is_the_base_model_exactly(tmp_path):
    path, _ = _folder(tmp_path / "a", config_of("dora"))
    unet = small_unet()
    base = unet_output(unet)
    with merged_adapters(unet, {path: 0.0}):
        assert torch.equal(unet_output(unet), base)


@pytest.mark.parametrize("method", ["delora", "ether", "dora", "full", "oft"])
def test_strength_scales_the_difference_of_the_weights(tmp_path, method):
    path, _ = _folder(tmp_path / "a", config_of(method))
    unet, name = small_unet(), "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    weight = unet.get_parameter(name).clone()
    differences = {}
    for strength in (0.5, 1.0, 2.0):
        with merged_adapters(unet, {path: strength}):
            differences[strength] = unet.get_parameter(name) - weight
    assert differences[1.0].abs().max() > 1e-3
    torch.testing.assert_close(differences[0.5], 0.5 * differences[1.0], atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(differences[2.0], 2 * differences[1.0], atol=1e-6, rtol=1e-4)


def test_several_adapters_add_up_in_any_order(tmp_path):
    (first, _), (second, _) = (_folder(tmp_path / name, config_of(name)) for name in ("delora", "dora"))
    unet, name = small_unet(), "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    weight, changes = unet.get_parameter(name).clone(), []
    for strengths in ({first: 1.0}, {second: 0.5}, {first: 1.0, second: 0.5}, {second: 0.5, first: 1.0}):
        with merged_adapters(unet, strengths):
            changes.append(unet.get_parameter(name) - weight)
    torch.testing.assert_close(changes[2], changes[0] + changes[1], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(changes[3], changes[2], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("strength", [-0.1, 2.1, float("nan")])
def test_a_strength_outside_zero_to_two_is_refused(tmp_path, strength):
    with pytest.raises(UserError, match="a strength is 0"), merged_adapters(small_unet(), {tmp_path: strength}):
        pass


def test_run_folders_and_checkpoints_are_found(tmp_path):
    run = RunFolder(tmp_path / "run")
    _folder(run.adapter, config_of("delora"))
    _folder(run.checkpoint(3) / "adapter", config_of("delora"), seed=1)
    outputs = []
    for path in (run.path, run.adapter, run.checkpoint(3)):
        unet = small_unet()
        with merged_adapters(unet, {path: 1.0}):
            outputs.append(unet_output(unet))
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[0], outputs[2])


def test_an_unfinished_run_says_how_far_it_came(tmp_path):
    run = RunFolder(tmp_path / "run")
    _folder(run.checkpoint(3) / "adapter", config_of("delora"))
    with pytest.raises(UserError, match=r"has not finished \(last checkpoint: step 3\)"):
        merged_adapters(small_unet(), {run.path: 1.0}).__enter__()


def test_merging_in_bf16_rounds_once(tmp_path):
    """Two adapters one after the other would round twice; the sum is made in fp32."""
    (first, _), (second, _) = (_folder(tmp_path / name, config_of("delora"), seed=int(name)) for name in "12")
    exact, rounded = small_unet(), small_unet(dtype=torch.bfloat16)
    name = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q.weight"
    exact.get_parameter(name).data = rounded.get_parameter(name).float()
    with merged_adapters(exact, {first: 1.0, second: 1.0}), merged_adapters(rounded, {first: 1.0, second: 1.0}):
        assert torch.equal(exact.get_parameter(name).bfloat16(), rounded.get_parameter(name))


KINDS = {"int8": "torchao", "int4": "bitsandbytes"}


@pytest.fixture(params=KINDS)
def quantised(request):
    """A function that gives a small UNet whose Linear weights are stored in 8 or 4 bits."""
    pytest.importorskip(KINDS[request.param], reason=f"NO {KINDS[request.param]}: pip install delora_sd[quantize]")
    from delora_sd.quantization import quantize_linears

    def make():
        unet = small_unet()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations inside torchao
            quantize_linears(unet, request.param)
        return unet

    return make


def test_weight_norm_of_a_quantised_base_is_that_of_the_dequantised_weight(quantised):
    from delora_sd.quantization import dense_weight

    unet = quantised()
    pack = adapted(unet, config_of("delora"))
    layer, tensors = next(iter(pack.adapters[0].layer_tensors().items()))
    dense = dense_weight(unet.get_submodule(layer).base)
    assert not torch.equal(dense, small_unet().get_submodule(layer).weight)
    torch.testing.assert_close(tensors["weight_norm"], dense.norm(dim=0))


@pytest.mark.parametrize("method", ["delora", "dora", "ether_plus"])
def test_training_on_a_quantised_base_moves_the_adapter_only(quantised, method):
    unet = quantised()
    base = unet_output(unet)
    pack = attach_method(unet, [config_of(method)], seeds=[0])
    optimizer = torch.optim.AdamW(pack.adapters[0].parameters(), lr=1e-2)
    losses = []
    for _ in range(6):
        pack.make_factors()
        out = unet(torch.ones(1, 4, 8, 8), torch.tensor([5]), encoder_hidden_states=torch.ones(1, 3, 24)).sample
        loss = (out - 0.3).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    pack.clear_factors()
    assert torch.equal(unet_output(unet), base)


def test_merging_into_a_quantised_base_warns_and_puts_the_quantised_layers_back(tmp_path, quantised):
    unet = quantised()
    base = unet_output(unet)
    pack = adapted(unet, config_of("delora"))
    expected = unet_output(unet)
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    other = quantised()
    layers = {name: type(module) for name, module in other.named_modules()}
    with pytest.warns(UserWarning, match="merging into a quantised base"), merged_adapters(other, {tmp_path / "a": 1}):
        assert (unet_output(other) - expected).abs().max() < 1e-4
    assert {name: type(module) for name, module in other.named_modules()} == layers
    assert torch.equal(unet_output(other), base)


@pytest.mark.parametrize("method", ["full", "oft"])
def test_methods_without_a_quantised_base_say_so(quantised, method):
    with pytest.raises(UserError, match=r"model\.quantization"):
        attach_method(quantised(), [config_of(method)], seeds=[0])
