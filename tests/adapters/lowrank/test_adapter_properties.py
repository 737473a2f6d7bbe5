"""What holds for every adapter, whatever its shape and size: symmetries of the update, merging, and files of others."""

from pathlib import Path

import pytest
import torch
from adapter_cases import NORMALISED, OneLayer, kick
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer, read_plain_lora
from delora_sd.adapters.exchange.plain_lora.writing import Provenance, write_diffusers, write_kohya
from delora_sd.adapters.exchange.stored.formats import load_adapter, save_adapter
from delora_sd.adapters.lowrank.factors import Factors, balanced, delora_factors, dense_update
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.settings import AdapterConfig

SEEDS = st.integers(0, 2**31)
SIZES = st.tuples(st.integers(1, 6), st.integers(1, 12), st.integers(1, 12))
"""(rank, inputs, outputs)"""

PROVENANCE = Provenance(
    title="t", base="b", date="", size_px=None, trigger="", is_v_prediction=False, training={}, lineage={}
)


def parameters(seed: int, sizes: tuple[int, int, int]) -> dict[str, Tensor]:
    """Returns A, B, boundary and weight norms in float64; no row is near zero, where normalising stops (MIN_NORM)."""
    rank, num_in, num_out = sizes
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    away = torch.sign(draw(rank, 1)), torch.sign(draw(1, rank))
    return {
        "A": draw(rank, num_in) + away[0],
        "B": draw(num_out, rank) + away[1],
        "boundary": draw(()).abs() + 0.1,
        "weight_norm": draw(num_in).abs() + 0.1,
    }


def update(values: dict[str, Tensor]) -> Tensor:
    return dense(delora_factors(**values))


def dense(factors: Factors) -> Tensor:
    return dense_update(factors, torch.zeros(factors.up.shape[0], factors.down.shape[1]))


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, sizes=SIZES, scale=st.floats(1.0, 1e6))
def test_update_does_not_depend_on_the_size_of_a_and_b(seed, sizes, scale):
    values = parameters(seed, sizes)
    larger = values | {"A": values["A"] * scale, "B": values["B"] * scale**0.5}
    torch.testing.assert_close(update(larger), update(values), rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, sizes=SIZES)
def test_rank_one_terms_have_no_order(seed, sizes):
    values = parameters(seed, sizes)
    order = torch.randperm(sizes[0], generator=torch.Generator().manual_seed(seed))
    shuffled = values | {"A": values["A"][order], "B": values["B"][:, order]}
    torch.testing.assert_close(update(shuffled), update(values), rtol=1e-9, atol=1e-12)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, sizes=SIZES)
def test_gradients_are_orthogonal_to_what_they_change(seed, sizes):
    values = parameters(seed, sizes)
    A, B = (values[name].clone().requires_grad_() for name in "AB")
    (update(values | {"A": A, "B": B}) * parameters(seed + 1, sizes)["boundary"]).square().sum().backward()
    assert ((A.grad * A).sum(1).abs() <= 1e-9 * (1 + A.grad.norm() * A.norm())).all()
    assert ((B.grad * B).sum(0).abs() <= 1e-9 * (1 + B.grad.norm() * B.norm())).all()


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, sizes=SIZES)
def test_update_norm_is_at_most_the_boundary(seed, sizes):
    values = parameters(seed, sizes)
    assert update(values).norm() <= values["boundary"] * values["weight_norm"].max() * (1 + 1e-9)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, sizes=SIZES, scale=st.floats(1e-3, 1e3))
def test_balancing_the_factors_keeps_the_update(seed, sizes, scale):
    values = parameters(seed, sizes)
    factors = Factors(values["A"] * scale, values["B"] / scale)
    torch.testing.assert_close(dense(balanced(factors)), values["B"] @ values["A"], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=5, deadline=None)
@given(seed=SEEDS, strength=st.floats(0.0, 2.0))
def test_saved_loaded_merged_and_taken_back(method, seed, strength, tmp_path_factory):
    folder = tmp_path_factory.mktemp("adapter") / "adapter"
    config = AdapterConfig(method=method, rank=4, boundary=0.5, boundary_unit="relative", target_modules=("layer",))
    adapter = kick(attach_adapters(OneLayer("linear"), [config], seeds=[seed]), seed=seed).adapters[0]
    save_adapter(adapter, folder, base="b")
    for layer, tensors in load_adapter(folder).layer_tensors().items():
        assert all(torch.equal(value, adapter.layer_tensors()[layer][name]) for name, value in tensors.items())
    model = OneLayer("linear")
    before = model.layer.weight.clone()
    with merged_adapters(model, {folder: strength}):
        assert model.layer.weight.isfinite().all()
        assert strength < 1e-3 or not torch.equal(model.layer.weight, before)
    assert torch.equal(model.layer.weight, before)


@pytest.mark.parametrize("write", [write_kohya, write_diffusers])
@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, ranks=st.lists(st.integers(1, 6), min_size=1, max_size=3))
def test_exported_factors_come_back_as_the_same_update(write, seed, ranks, tmp_path_factory):
    file: Path = tmp_path_factory.mktemp("export") / "a.safetensors"
    layers = {}
    for index, rank in enumerate(ranks):
        values = parameters(seed + index, (rank, 8, 5))
        layers[f"block.{index}.to_q"] = PlainLayer(down=values["A"].float(), up=values["B"].float(), magnitude=None)
    write(file, layers, torch.float32, PROVENANCE)
    found, _ = read_plain_lora(file, list(layers))
    assert found.keys() == layers.keys()
    for name, layer in layers.items():
        torch.testing.assert_close(found[name].up @ found[name].down, layer.up @ layer.down, rtol=1e-5, atol=1e-5)


def test_only_the_normalised_methods_are_covered_by_one_formula():
    """The first four properties are of Eq. 8; a normalised method with another formula would need its own."""
    assert {METHODS[name].factors for name in NORMALISED} == {METHODS["delora"].factors}
