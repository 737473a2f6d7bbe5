"""Where training starts: the sizes of what is drawn, and what is derived from the settings."""

import math

import pytest
import torch
from adapter_cases import config_of
from torch import nn

from delora_sd.adapters.lowrank.methods import METHODS, resolve_layer, trained_names

IN, OUT, RANK = 300, 200, 100


def started(method: str, **changes) -> dict[str, torch.Tensor]:
    config = config_of(method, rank=RANK, **changes)
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))
    spec = resolve_layer("layer", config, weight)
    return METHODS[method].start(spec, config, weight, torch.Generator().manual_seed(0))


@pytest.mark.parametrize("method", ["lora", "dora", "delora", "normalized_lora"])
def test_a_starts_as_torchs_own_linear_layers_do(method):
    """Uniform within 1/sqrt(inputs): kaiming_uniform with a = sqrt(5), as in LoRA and peft."""
    A = started(method)["A"]
    torch.manual_seed(0)
    theirs = nn.Linear(IN, RANK).weight
    assert A.shape == theirs.shape
    assert A.abs().max().item() == pytest.approx(1 / math.sqrt(IN), rel=1e-3)
    assert A.abs().max() == pytest.approx(theirs.abs().max().item(), rel=1e-3)
    assert A.std().item() == pytest.approx(theirs.std().item(), rel=0.02)
    assert abs(A.mean().item()) < 0.02 * A.std().item()


def test_b_starts_at_zero_or_as_a_linear_layer_of_rank_inputs():
    assert not started("lora")["B"].any() and not started("delora", init="zero_up")["B"].any()
    B = started("delora")["B"]
    assert B.abs().max().item() == pytest.approx(1 / math.sqrt(RANK), rel=1e-3)


def test_doras_magnitude_starts_at_the_norm_of_each_output_row():
    weight = torch.randn(OUT, IN, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(started("dora")["magnitude"], weight.square().sum(1).sqrt())


@pytest.mark.parametrize("method", ["ether", "ether_plus", "ether_plus_one_sided", "ether_plus_bounded"])
def test_reflections_start_as_pairs_of_opposite_normal_vectors(method):
    """u and -u reflect alike, and have gradients that differ."""
    tensors = started(method)
    for one, other in (("u", "v"), ("U", "V"), ("u_out", "v_out")):
        if one in tensors:
            assert tensors[one].std().item() == pytest.approx(1.0, rel=0.15)
        if other in tensors:
            assert torch.equal(tensors[other], -tensors[one])


@pytest.mark.parametrize("method", METHODS)
def test_what_is_trained_starts_in_float32(method):
    tensors = started(method)
    assert {tensors[name].dtype for name in trained_names(config_of(method))} == {torch.float32}


@pytest.mark.parametrize(("alpha", "expected"), [(None, 16.0), (4.0, 4.0)])
def test_alpha_left_open_is_twice_the_rank(alpha, expected):
    spec = resolve_layer("layer", config_of("lora", rank=8, alpha=alpha), torch.zeros(20, 20))
    assert spec.alpha == expected
