"""What a training takes is known from shapes alone: the same as measured on values, and in the right direction."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from delora_sd.adapters.lowrank.pack import detach
from delora_sd.cli.memory import known_base, memory_finding
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.table import architectures
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.settings import ModelConfig
from delora_sd.training.memory import meter
from delora_sd.training.memory.on_shapes import (
    KINDS,
    Needs,
    estimate,
    read_table,
    stored_bytes,
    usual_needs,
    usual_training,
)
from delora_sd.training.memory.pack_size import random_cell, train_one_step

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="module")
def base(tiny_sd: Path):
    return find_base(ModelConfig(base=str(tiny_sd)))


@pytest.fixture(scope="module")
def needs(base) -> Needs:
    return estimate(base, usual_training(base.name))


def test_a_step_on_shapes_holds_what_a_step_on_values_holds(base, needs: Needs):
    """Attention differs: a CPU keeps what the fused kernel of a GPU does not; these maps are tiny."""
    config = usual_training(base.name)
    denoiser = load_denoiser(base, device="cpu", dtype=torch.bfloat16)
    cell = random_cell(config, base, torch.device("cpu"))
    measured = meter.peak_bytes(torch.device("cpu"), partial(train_one_step, config, base, denoiser, [cell]))
    detach(denoiser)
    assert needs.step == pytest.approx(measured, rel=0.25)


def test_checkpointing_and_fewer_bits_take_less(base, needs: Needs):
    assert needs.checkpointed_step < needs.step
    assert needs.weights["int4"] < needs.weights["int8"] < needs.weights["none"]
    denoiser = load_denoiser(base, device="meta", dtype=torch.bfloat16)
    assert needs.weights["none"] == 2 * sum(parameter.numel() for parameter in denoiser.parameters())


def test_a_second_photo_takes_as_much_again(base, needs: Needs):
    config = usual_training(base.name)
    two = estimate(base, replace(config, training=replace(config.training, batch_size=2)))
    assert 1.5 * needs.step < two.step < 2.5 * needs.step


def test_int8_is_what_torchao_stores(base):
    torchao = pytest.importorskip("torchao.quantization", reason="NO torchao: pip install delora_sd[quantize]")
    linear = torch.nn.Linear(64, 32, bias=False, dtype=torch.bfloat16)
    expected = stored_bytes(linear, "int8")
    torchao.quantize_(linear, torchao.Int8WeightOnlyConfig())
    stored = sum(part.nbytes for name in ("qdata", "scale") if (part := getattr(linear.weight, name, None)) is not None)
    assert stored == expected


def test_a_released_base_is_known_before_it_is_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    base = known_base(ModelConfig(base="stabilityai/stable-diffusion-xl-base-1.0"))
    assert base is not None and (base.folder, base.family.name) == (None, "sdxl")
    assert known_base(ModelConfig(base="nobody/nothing")) is None


@pytest.mark.parametrize("name", architectures())
def test_the_doctors_table_has_every_architecture_as_it_is(name: str):
    base = find_base(ModelConfig(base=name))
    known = read_table()[name]
    denoiser = load_denoiser(base, device="meta", dtype=torch.bfloat16)
    assert known.size_px == base.size_px
    assert known.weights == {kind: stored_bytes(denoiser, kind) for kind in KINDS}
    assert usual_needs(base) is known
    assert str(f"{known.step / 1e9:.2f}") in (ROOT / "docs" / "MEMORY.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("name", architectures())
def test_the_doctors_table_is_what_is_computed(name: str):
    assert estimate(find_base(ModelConfig(base=name)), usual_training(name)) == read_table()[name]


NEEDS = Needs(
    size_px=1024,
    weights={"none": 5_000_000_000, "int8": 2_700_000_000, "int4": 1_600_000_000},
    step=9_000_000_000,
    checkpointed_step=1_000_000_000,
    text=1_500_000_000,
    vae=0,
)


@pytest.mark.parametrize(
    ("usable", "says"),
    [(20e9, "as it is"), (8e9, "gradient_checkpointing=true"), (4e9, "quantization=int8"), (3e9, "quantization=int4")],
)
def test_the_doctor_names_the_fastest_settings_that_fit(usable: float, says: str):
    finding = memory_finding("base", NEEDS, usable=usable, device="cuda")
    assert finding.state == "ok" and says in finding.found


def test_the_doctor_says_what_is_missing_when_nothing_fits():
    finding = memory_finding("base", NEEDS, usable=2e9, device="cuda")
    assert finding.state == "absent" and "2.6 GB at least" in finding.found and "docs/MEMORY.md" in finding.advice
