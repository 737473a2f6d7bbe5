"""`delora-sd methods` and the shipped presets."""

from pathlib import Path

import pytest
import torch
from adapter_cases import ATTENTION, config_of, small_unet

from delora_sd.adapters.attach import attach_method, check_known, known_methods
from delora_sd.adapters.catalogue import method_rows, print_methods
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.config.load import load_config
from delora_sd.settings import AdapterConfig, MethodsConfig, TrainConfig

PRESETS = sorted(
    file
    for file in (Path(__file__).parents[2] / "configs" / "train").glob("*.yaml")
    if not file.read_text().startswith("# delora-sd train-maps")  # maps have settings of their own
)


def test_parameter_counts_on_stable_diffusion_15_are_the_papers():
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser

    unet = load_denoiser(find_base(MethodsConfig().model), device="meta", dtype=torch.float32)
    counts = {(row.method, row.size): row.num_parameters for row in method_rows(unet, AdapterConfig())}
    expected = {
        ("full", ""): 859_520_964,
        ("lora", "r 4"): 797_184,
        ("lora", "r 16"): 3_188_736,
        ("dora", "r 16"): 3_288_576,
        ("delora", "r 16"): 3_188_864,
        ("oft", "n 4"): 11_602_368,
        ("ether", ""): 99_456,
        ("ether_plus_one_sided", ""): 198_912,
        ("ether_plus", ""): 398_592,
    }
    assert {key: counts[key] for key in expected} == expected
    assert {method for method, _ in counts} == set(known_methods())


@pytest.mark.parametrize("method", [*METHODS, "full", "oft"])
def test_the_table_counts_what_training_trains(method):
    config = config_of(method, num_blocks=2)
    rows = [row for row in method_rows(small_unet(), config) if row.method == method]
    trained = attach_method(small_unet(), [config], seeds=[0]).adapters[0].num_parameters()
    assert rows[-1].num_parameters == trained


@pytest.mark.parametrize("method", [name for name, method in METHODS.items() if method.exact_rank])
@pytest.mark.parametrize("init", ["frozen_copy", "mirrored"])
def test_the_exact_rank_is_that_of_the_factors(method, init):
    unet = small_unet()
    config = config_of(method, init=init)
    attach_method(unet, [config], seeds=[0]).make_factors()
    layer = unet.get_submodule("mid_block.attentions.0.transformer_blocks.0.attn1.to_q")
    assert layer.factors.down.shape[1] == METHODS[method].exact_rank(config)


def test_the_printed_table_names_every_method(capsys, tiny_sd):
    from delora_sd.settings import ModelConfig

    adapter = AdapterConfig(rank=4, num_blocks=2)
    print_methods(MethodsConfig(model=ModelConfig(base=str(tiny_sd)), adapter=adapter))
    printed = capsys.readouterr().out
    assert all(method in printed for method in known_methods())


@pytest.mark.parametrize("preset", PRESETS, ids=lambda path: path.stem)
def test_every_preset_loads_and_attaches(preset):
    config = load_config(TrainConfig, [preset], [])
    check_known(config.adapter)
    opening = preset.read_text().splitlines()[0]
    assert opening.startswith("# accelerate launch train_dreambooth_delora.py configs/train/")
    small = load_config(TrainConfig, [preset], ["adapter.rank=4"]).adapter
    assert attach_method(small_unet(), [small], seeds=[0]).adapters[0].num_parameters() > 0


def test_there_is_a_preset_for_every_method_of_ours():
    methods = {load_config(TrainConfig, [preset], []).adapter.method for preset in PRESETS}
    assert set(known_methods()) - {"peft"} <= methods
    assert all(
        set(load_config(TrainConfig, [preset], []).adapter.target_modules) == set(ATTENTION) for preset in PRESETS
    )
