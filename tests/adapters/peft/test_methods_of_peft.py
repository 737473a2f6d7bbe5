"""full, oft and PEFT's methods behind the same small interface as a pack."""

import json

import pytest
import torch
from adapter_cases import config_of, kick, small_unet, unet_output
from peft import PeftModel

from delora_sd.adapters.attach import attach_method, default_learning_rate, is_packable, known_methods
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.stored.formats import restore_adapter, save_adapter

PEFT_CONFIGS = {
    "LOHA": {"r": 4},
    "LOKR": {"r": 4},
    "HRA": {"r": 4},
    "VERA": {"r": 4},
}
CASES = ["full", "oft", *PEFT_CONFIGS]


@pytest.fixture(params=CASES)
def config(request, tmp_path):
    if request.param not in PEFT_CONFIGS:
        return config_of(request.param, num_blocks=2)
    file = tmp_path / "peft.json"
    file.write_text(json.dumps({"peft_type": request.param} | PEFT_CONFIGS[request.param]))
    return config_of("peft", peft_config=str(file))


def _attached(config, *, seed=0, dtype=torch.float32):
    unet = small_unet(dtype=dtype)
    return unet, attach_method(unet, [config], seeds=[seed])


def test_training_starts_at_the_base_model(config):
    unet, _ = _attached(config)
    assert (unet_output(unet) - unet_output(small_unet())).abs().max() < 3e-6


def test_three_steps_train_fp32_parameters_on_a_half_precision_base(config):
    dtype = torch.bfloat16
    unet, pack = _attached(config, dtype=dtype)
    adapter = pack.adapters[0]
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4 if config.method == "full" else 1e-2)
    # Different words at different places: with equal ones attention is uniform, and to_q and to_k learn from nothing.
    generator = torch.Generator().manual_seed(2)
    latents, text = (torch.randn(shape, generator=generator).to(dtype) for shape in ((2, 4, 8, 8), (2, 5, 24)))
    losses = []
    for _ in range(4):
        pack.make_factors()
        loss = (unet(latents, torch.tensor([5, 500]), encoder_hidden_states=text).sample.float() - 0.3).square().mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 2e-3  # of 0.16; bfloat16 rounds it to about 1e-4
    assert all(parameter.dtype == torch.float32 for _, parameter in adapter.parameters_by_name())
    assert adapter.num_parameters() == sum(parameter.numel() for parameter in adapter.parameters())
    # Three steps of AdamW move every entry that has a gradient by about the rate, whatever the gradient's size.
    assert min(relative for _, relative in pack.distances()[0].values()) > 1e-3


def test_saved_restored_and_merged_are_one(config, tmp_path):
    unet, pack = _attached(config)
    kick(pack, size=0.01 if config.method == "full" else 0.2)
    trained = unet_output(unet)
    assert (trained - unet_output(small_unet())).abs().max() > 1e-2
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    other, fresh = _attached(config, seed=1)
    restore_adapter(fresh.adapters[0], tmp_path / "a")
    assert torch.equal(unet_output(other), trained)
    merged = small_unet()
    with merged_adapters(merged, {tmp_path / "a": 1.0}):
        assert (unet_output(merged) - trained).abs().max() < 1e-5


def test_distances_are_those_of_the_merged_weights(config, tmp_path):
    _, pack = _attached(config)
    kick(pack, size=0.01 if config.method == "full" else 0.2)
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    base, merged = small_unet(), small_unet()
    with merged_adapters(merged, {tmp_path / "a": 1.0}):
        for layer, (distance, relative) in pack.distances()[0].items():
            weight = base.get_submodule(layer).weight
            expected = (merged.get_submodule(layer).weight - weight).norm().item()
            assert distance == pytest.approx(expected, rel=1e-4, abs=1e-5)
            assert relative == pytest.approx(expected / weight.norm().item(), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", [name for name in CASES if name != "full"])
def test_peft_loads_what_we_trained(name, tmp_path):
    config = config_of("oft", num_blocks=2)
    if name in PEFT_CONFIGS:
        (tmp_path / "peft.json").write_text(json.dumps({"peft_type": name} | PEFT_CONFIGS[name]))
        config = config_of("peft", peft_config=str(tmp_path / "peft.json"))
    unet, pack = _attached(config)
    kick(pack, size=0.2)
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    theirs = PeftModel.from_pretrained(small_unet(), tmp_path / "a")
    assert (unet_output(theirs) - unet_output(unet)).abs().max() < 1e-5


def test_oft_says_that_it_used_the_exact_cayley_transform(tmp_path):
    """The Neumann series turns the other way: a file that does not say so could be loaded inverted."""
    _, pack = _attached(config_of("oft", num_blocks=2))
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    written = json.loads((tmp_path / "a/adapter_config.json").read_text())
    assert (written["use_cayley_neumann"], written["r"], written["oft_block_size"]) == (False, 2, 0)


def test_peft_refuses_a_whole_unet(tmp_path):
    _, pack = _attached(config_of("full"))
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    with pytest.raises(KeyError):
        PeftModel.from_pretrained(small_unet(), tmp_path / "a")


def test_the_start_of_a_peft_method_depends_on_the_seed_only(tmp_path):
    (tmp_path / "peft.json").write_text('{"peft_type": "LOHA", "r": 4}')
    config = config_of("peft", peft_config=str(tmp_path / "peft.json"))

    def start(seed: int) -> list[torch.Tensor]:
        torch.rand(seed + 1)  # whatever happened before
        return [parameter.detach() for parameter in _attached(config, seed=seed)[1].adapters[0].parameters()]

    assert all(torch.equal(a, b) for a, b in zip(start(3), start(3), strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(start(3), start(4), strict=True))


def test_every_known_method_has_a_learning_rate():
    assert {"delora", "lora", "dora", "full", "oft", "peft"} <= set(known_methods())
    assert all(0 < default_learning_rate(method) < 1 for method in known_methods())
    assert [method for method in known_methods() if not is_packable(method)] == ["full", "oft", "peft"]
