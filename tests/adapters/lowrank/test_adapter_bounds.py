"""The boundary holds whatever the optimizer does: 200 random steps at absurd learning rates."""

import pytest
import torch
from adapter_cases import NORMALISED
from hypothesis import given, settings
from hypothesis import strategies as st

from delora_sd.adapters.lowrank.factors import update_norm
from delora_sd.adapters.lowrank.methods import METHODS, make_factors, resolve_layer, trained_names
from delora_sd.settings import AdapterConfig

NUM_STEPS = 200
COPIES = 8
"""Random walks made side by side."""


def _largest_norm(method: str, tensors: dict, weight: torch.Tensor) -> torch.Tensor:
    """Returns what ||W' - W||_F may not exceed, from the paper: Eq. 7, 8, 10, 14 and the norm of a reflection."""
    spectral = torch.linalg.matrix_norm(weight, 2)
    if method in NORMALISED:
        return tensors["boundary"].abs() * tensors["weight_norm"].amax(-1)
    if "boundary" in tensors:
        return tensors["boundary"].abs() * spectral
    # ||H - I||_F <= 2 on either side; H+ stretches by at most 2, hence 2 * 2 + 2 for both sides together.
    return {"ether": 2, "ether_plus_one_sided": 2, "ether_plus": 6}[method] * spectral


@pytest.mark.parametrize("norm", ["column", "frobenius"])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in ("lora", "dora")])
@settings(max_examples=4, deadline=None)
@given(lr=st.floats(1e-3, 1e6), seed=st.integers(0, 2**31), boundary=st.floats(1e-3, 20))
def test_update_norm_never_exceeds_the_boundary(method, norm, lr, seed, boundary):
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(6, 8, generator=generator)
    # The start is part of W in Eq. 9; the bound is on what training adds.
    config = AdapterConfig(method=method, rank=4, boundary=boundary, init="zero_up", weight_norm=norm)
    spec = resolve_layer("layer", config, weight)
    fresh = METHODS[method].start(spec, config, weight, generator)
    tensors = {name: value.expand(COPIES, *value.shape).clone() for name, value in fresh.items()}
    for _ in range(NUM_STEPS):
        for name in trained_names(config):
            rate = lr if name != "boundary" else 1e-3 * lr
            tensors[name] += rate * torch.randn(tensors[name].shape, generator=generator)
    norms = update_norm(make_factors(tensors, config, spec, weight)[0], weight)
    assert (norms <= _largest_norm(method, tensors, weight) * (1 + 1e-4)).all()
    assert (norms > 0).all()


def test_a_frozen_copy_may_at_most_double_the_distance():
    """W' = W + live - start, and each of the two stays within its own boundary."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(6, 8, generator=generator)
    config = AdapterConfig(rank=4, boundary=3.0)
    spec = resolve_layer("layer", config, weight)
    tensors = METHODS["delora"].start(spec, config, weight, generator)
    tensors |= {name: torch.randn(tensors[name].shape, generator=generator) for name in "AB"}
    norm = update_norm(make_factors(tensors, config, spec, None)[0], weight)
    assert norm <= 2 * 3.0 * tensors["weight_norm"].max()


def test_lora_has_no_bound():
    """The control: without normalisation the same walk leaves every fixed ball."""
    weight = torch.randn(6, 8)
    config = AdapterConfig(method="lora", rank=4)
    spec = resolve_layer("layer", config, weight)
    tensors = {"A": 100 * torch.randn(4, 8), "B": 100 * torch.randn(6, 4)}
    assert update_norm(make_factors(tensors, config, spec, None)[0], weight) > 1000 * weight.norm()
