"""A fused matrix (q, k, v and MLP in one): each slice of its output rows is bounded as a matrix of its own."""

import json
from dataclasses import replace

import pytest
import torch
from adapter_cases import INITS, NORMALISED, config_of, kick, naive_weight
from torch import Tensor, nn

from delora_sd.adapters.exchange.export.as_lora import plain_lora_of
from delora_sd.adapters.exchange.stored.formats import OWN_FILE, load_adapter, save_adapter
from delora_sd.adapters.lowrank.adapter import layer_factors
from delora_sd.adapters.lowrank.factors import dense_update
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import AdapterPack, attach_adapters
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors, write_tensors
from delora_sd.training.loop.angular import keep_directions, start_directions

ROWS = (5, 5, 3, 7)
BOUNDED = [name for name, method in METHODS.items() if "boundary" in method.trained]


class Fused(nn.Module):
    """One fused layer, whose slices have very different norms, and a plain one behind it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.fused, self.plain = nn.Linear(12, sum(ROWS)), nn.Linear(sum(ROWS), 8)
        with torch.no_grad():
            for size, part in zip((1.0, 10.0, 0.1, 3.0), self.fused.weight.split(ROWS), strict=True):
                part.mul_(size)

    def forward(self, x: Tensor) -> Tensor:
        return self.plain(self.fused(x))


def attached(method: str = "delora", *, seeds: tuple[int, ...] = (0,), **changes) -> tuple[Fused, AdapterPack]:
    model, config = Fused(), config_of(method, target_modules=("fused", "plain"), **changes)
    weights = {"fused": model.fused.weight}
    pack = attach_adapters(model, [config] * len(seeds), seeds=list(seeds), fused_rows={"fused": ROWS})
    assert pack.adapters[0].specs()["fused"].shape == weights["fused"].shape
    return model, pack


def slice_tensors(tensors: dict[str, Tensor], method: str, number: int) -> dict[str, Tensor]:
    """What the one slice is made of; a frozen start is that of its own rows and terms."""
    first, rows, rank = sum(ROWS[:number]), ROWS[number], tensors["start_down"].shape[0] // len(ROWS)
    own = tensors | {"boundary": tensors["boundary"][number], "weight_norm": tensors["weight_norm"][number]}
    terms = slice(rank * number, rank * (number + 1))
    start_up = tensors["start_up"][first : first + rows, terms]
    return own | {
        "B": tensors["B"][first : first + rows],
        "start_down": tensors["start_down"][terms],
        "start_up": start_up,
    }


@pytest.mark.parametrize("method", NORMALISED)
def test_every_slice_is_the_papers_formula_on_its_own_matrix(method: str):
    model, pack = attached(method)
    adapter = kick(pack).adapters[0]
    tensors, spec = adapter.layer_tensors()["fused"], adapter.specs()["fused"]
    update = dense_update(layer_factors(adapter.config, spec, tensors), model.fused.base.weight)
    for number, (weight, own) in enumerate(
        zip(model.fused.base.weight.detach().split(ROWS), update.split(ROWS), strict=True)
    ):
        expected = naive_weight(adapter.config, slice_tensors(tensors, method, number), weight, spec.alpha)
        torch.testing.assert_close(own.double(), expected - weight.double(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("method", BOUNDED)
def test_a_slices_boundary_moves_its_own_rows_alone(method: str):
    model, pack = attached(method, init="zero_up")
    adapter = kick(pack).adapters[0]
    weight, spec = model.fused.base.weight.detach(), adapter.specs()["fused"]
    before = adapter.layer_tensors()["fused"]
    after = before | {"boundary": before["boundary"] * torch.tensor([1.0, 2.0, 1.0, 1.0])}
    one, two = (dense_update(layer_factors(adapter.config, spec, each, weight), weight) for each in (before, after))
    factors = torch.tensor([1.0, 2.0, 1.0, 1.0]).repeat_interleave(torch.tensor(ROWS)).unsqueeze(1)
    torch.testing.assert_close(two, one * factors)
    assert one.abs().amax(1).min() > 0


def test_no_slice_passes_its_own_bound_however_large_the_others_are():
    _, pack = attached(init="zero_up", boundary_unit="paper", boundary=3.0)
    adapter = kick(pack, size=5.0).adapters[0]
    tensors = adapter.layer_tensors()["fused"]
    update = dense_update(layer_factors(adapter.config, adapter.specs()["fused"], tensors), torch.zeros(20, 12))
    for part, boundary, norms in zip(
        update.split(ROWS), tensors["boundary"].tolist(), tensors["weight_norm"], strict=True
    ):
        assert part.norm() <= abs(boundary) * norms.max() * (1 + 1e-5)


@pytest.mark.parametrize("init", INITS)
def test_a_fused_layer_starts_at_the_pretrained_one(init: str):
    model, pack = attached(init=init)
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    expected = model(x)
    pack.make_factors()
    torch.testing.assert_close(model(x), expected, rtol=1e-4, atol=1e-5)


def test_a_fused_layer_trains_what_lora_trains_and_one_boundary_for_each_slice():
    lora, delora = (attached(method)[1].adapters[0] for method in ("lora", "delora"))
    assert not lora.specs()["fused"].rows
    assert delora.num_parameters() - lora.num_parameters() == len(ROWS) + 1
    assert delora.layer_tensors()["fused"]["A"].equal(lora.layer_tensors()["fused"]["A"])


def test_the_relative_unit_is_each_slices_own():
    """Without a weight norm lambda is the norm of the update: a tenth of each slice's own norm."""
    model, pack = attached("normalized_lora", boundary=0.1)
    norms = [0.1 * float(part.norm()) for part in model.fused.base.weight.split(ROWS)]
    assert pack.adapters[0].layer_tensors()["fused"]["boundary"].tolist() == pytest.approx(norms)


def test_a_pack_of_three_is_three_single_ones():
    model, pack = attached(seeds=(1, 2, 3))
    kick(pack)
    pack.make_factors()
    x = torch.randn(6, 12, generator=torch.Generator().manual_seed(1))
    together = model(x).chunk(3)
    for number, own in enumerate(together):
        single, alone = attached(seeds=(number + 1,))
        alone.adapters[0].copy_from(pack.adapters[number].layer_tensors())
        alone.make_factors()
        torch.testing.assert_close(single(x.chunk(3)[number]), own)


def test_files_keep_the_slices_and_the_plain_lora_is_exact(tmp_path):
    _, pack = attached()
    adapter = kick(pack).adapters[0]
    save_adapter(adapter, tmp_path / "a", base="toy")
    loaded = load_adapter(tmp_path / "a")
    assert loaded.specs() == adapter.specs()
    assert all(
        value.equal(loaded.layer_tensors()[layer][name])
        for layer, named in adapter.layer_tensors().items()
        for name, value in named.items()
    )
    exact = plain_lora_of(tmp_path / "a", strength=1.0, rank=None).layers["fused"]
    update = dense_update(
        layer_factors(adapter.config, adapter.specs()["fused"], adapter.layer_tensors()["fused"]), torch.zeros(20, 12)
    )
    torch.testing.assert_close(exact.up @ exact.down, update, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("broken", [{"rows": [5, 5, 3, 6]}, {"rows": [-1, 21]}, {"rows": "all"}, {"boundary": [1.0]}])
def test_slices_that_cannot_be_are_refused(tmp_path, broken: dict):
    save_adapter(attached()[1].adapters[0], tmp_path / "a", base="toy")
    tensors, metadata = read_tensors(tmp_path / "a" / OWN_FILE)
    layers = json.loads(metadata["delora.layers"])
    layers["fused"] |= broken
    write_tensors(tmp_path / "a" / OWN_FILE, tensors, metadata | {"delora.layers": json.dumps(layers)})
    with pytest.raises(UserError, match="slices"):
        load_adapter(tmp_path / "a")


def test_angular_directions_of_every_slice_have_length_one():
    _, pack = attached()
    adapter = pack.adapters[0]
    start_directions(adapter)
    kick(pack)
    spec = adapter.specs()["fused"]
    before = layer_factors(adapter.config, spec, adapter.layer_tensors()["fused"])
    keep_directions(adapter)
    tensors = adapter.layer_tensors()["fused"]
    for part in tensors["B"].split(ROWS):
        torch.testing.assert_close(part.square().mean(0).sqrt(), torch.ones(spec.rank))
    after = layer_factors(adapter.config, replace(spec), tensors)
    torch.testing.assert_close(after.up @ after.down, before.up @ before.down)
