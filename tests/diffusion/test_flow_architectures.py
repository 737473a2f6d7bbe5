"""FLUX.2 klein and Z-Image at their real sizes, on the meta device: layers that are adapted, and what is trained."""

import pytest
import torch
from torch import nn

from delora_sd.adapters.attach import with_default_layers
from delora_sd.adapters.catalogue import count_parameters
from delora_sd.adapters.lowrank.pack import find_targets
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.families.flux2 import DOUBLE, SINGLE_INPUTS, SINGLE_OUTPUTS
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.settings import AdapterConfig, ModelConfig

META = {"device": "meta", "dtype": torch.float32}
PEFTS_LAYERS = (*DOUBLE, "ff.linear_in", "ff.linear_out", "ff_context.linear_in", "ff_context.linear_out")


@pytest.fixture(scope="module")
def klein() -> tuple[Base, nn.Module]:
    base = find_base(ModelConfig(base="flux2-klein-architecture"))
    return base, load_denoiser(base, **META)


def count(base: Base, denoiser: nn.Module, config: AdapterConfig) -> tuple[int, int]:
    """(layers, trained parameters)"""
    config = with_default_layers(config, base.family)
    num_trained = count_parameters(denoiser, config, fused_rows=base.family.fused_rows(denoiser))
    return len(find_targets(denoiser, config.target_modules)), num_trained


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (AdapterConfig().target_modules, (80, 18_677_760)),
        (DOUBLE, (40, 3_932_160)),
        (SINGLE_INPUTS, (20, 9_830_400)),
        (SINGLE_OUTPUTS, (20, 4_915_200)),
        ((*PEFTS_LAYERS, *SINGLE_INPUTS), (80, 19_169_280)),
    ],
)
def test_kleins_layers_and_loras_parameters(klein, layers: tuple[str, ...], expected: tuple[int, int]):
    """Every group, and the set of peft's benchmark (half of its 38,338,560 at rank 32)."""
    assert count(*klein, AdapterConfig(method="lora", target_modules=layers)) == expected


def test_klein_has_one_boundary_for_each_matrix_and_slice(klein):
    """60 plain layers, and of the 20 fused ones a boundary for q, k, v and the MLP each."""
    config = AdapterConfig(method="delora", init="zero_up")
    assert count(*klein, config) == (80, 18_677_760 + 60 + 20 * 4)
    fused = klein[0].family.fused_rows(klein[1])
    assert set(fused.values()) == {(3072, 3072, 3072, 18_432)} and len(fused) == 20


def test_z_images_layers_and_loras_parameters():
    base = find_base(ModelConfig(base="zimage-architecture"))
    assert count(base, load_denoiser(base, **META), AdapterConfig(method="lora")) == (136, 16_711_680)
    assert base.size_px == 1024 and base.latent_side == 128
