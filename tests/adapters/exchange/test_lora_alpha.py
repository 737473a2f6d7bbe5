"""Which alpha: one rule for tensors, headers and configurations; what diffusers and PEFT apply is what we apply."""

import json

import pytest
import torch
from adapter_cases import ATTENTION, config_of, kick, small_unet, unet_output
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file

from delora_sd.adapters.attach import attach_method
from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.adapters.exchange.stored.formats import save_adapter
from delora_sd.errors import UserError

pytestmark = pytest.mark.filterwarnings("ignore:Adapter .* have invalid shape")
"""PEFT takes a bias of its own for a piece of a matrix."""

CONFIGS = {
    "alpha above the rank": {"r": 4, "lora_alpha": 16},
    "alpha below the rank": {"r": 4, "lora_alpha": 1},
    "rank-stabilised": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "patterns": {"r": 4, "lora_alpha": 8, "rank_pattern": {"to_k": 2}, "alpha_pattern": {"attn1.to_q": 3, "to_k": 5}},
    "rank-stabilised patterns": {"r": 2, "lora_alpha": 4, "use_rslora": True, "rank_pattern": {"to_v": 8}},
    "dora": {"r": 4, "lora_alpha": 12, "use_dora": True},
    "a bias of its own": {"r": 4, "lora_alpha": 8, "lora_bias": True, "target_modules": ["to_out.0"]},
}
EVERY_RULE = ("rank-stabilised patterns", "dora", "a bias of its own")
"""Each rule once: all doors lead to one reader, which the first test tries with every configuration."""


def _config(name: str) -> LoraConfig:
    return LoraConfig(**{"target_modules": list(ATTENTION), "init_lora_weights": False} | CONFIGS[name])


def _merged(path) -> torch.Tensor:
    unet = small_unet()
    with merged_adapters(unet, {path: 1.0}):
        return unet_output(unet)


@pytest.mark.parametrize("name", CONFIGS)
def test_a_file_of_save_lora_adapter_is_what_diffusers_loads(tmp_path, name):
    unet = small_unet()
    unet.add_adapter(_config(name))
    unet.save_lora_adapter(tmp_path)
    file = tmp_path / "pytorch_lora_weights.safetensors"
    theirs = small_unet()
    theirs.load_lora_adapter(tmp_path, weight_name=file.name, prefix=None)
    expected = unet_output(theirs)
    assert (expected - unet_output(small_unet())).abs().max() > 1e-2
    for path in (file, tmp_path):  # the file, and the folder that it lies in
        assert (_merged(path) - expected).abs().max() < 1e-5


@pytest.mark.parametrize("name", EVERY_RULE)
def test_a_pipeline_file_is_what_diffusers_loads(tmp_path, name):
    from diffusers import StableDiffusionPipeline
    from peft import get_peft_model_state_dict

    unet, config = small_unet(), _config(name)
    unet.add_adapter(config)
    StableDiffusionPipeline.save_lora_weights(
        tmp_path,
        unet_lora_layers=get_peft_model_state_dict(unet),
        unet_lora_adapter_metadata=config.to_dict() | {"target_modules": list(config.target_modules)},
    )
    (file,) = tmp_path.glob("*.safetensors")
    theirs = small_unet()
    theirs.load_lora_adapter(tmp_path, weight_name=file.name, prefix="unet")
    assert (_merged(file) - unet_output(theirs)).abs().max() < 1e-5


@pytest.mark.parametrize("name", EVERY_RULE)
def test_the_file_in_a_peft_folder_is_its_folder(tmp_path, name):
    get_peft_model(small_unet(), _config(name)).save_pretrained(tmp_path / "a")
    expected = unet_output(PeftModel.from_pretrained(small_unet(), tmp_path / "a"))
    for path in (tmp_path / "a", tmp_path / "a/adapter_model.safetensors"):
        assert (_merged(path) - expected).abs().max() < 1e-5


def test_a_peft_folder_that_names_no_alpha_has_pefts_default(tmp_path):
    get_peft_model(small_unet(), _config("alpha below the rank")).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    del config["lora_alpha"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    expected = unet_output(PeftModel.from_pretrained(small_unet(), tmp_path))
    assert (_merged(tmp_path) - expected).abs().max() < 1e-5


def test_our_own_file_knows_its_alpha_without_its_folder(tmp_path):
    pack = kick(attach_method(small_unet(), [config_of("lora", alpha=3.0, rank_pattern={"attn1": 2})], seeds=[0]))
    save_adapter(pack.adapters[0], tmp_path / "a", base="owner/base")
    (tmp_path / "a/adapter_model.safetensors").rename(tmp_path / "alone.safetensors")
    moved = _merged(tmp_path / "alone.safetensors")
    (tmp_path / "alone.safetensors").rename(tmp_path / "a/adapter_model.safetensors")
    assert (moved - _merged(tmp_path / "a")).abs().max() < 1e-6


def test_a_file_with_pefts_names_and_no_alpha_says_what_was_assumed(tmp_path):
    get_peft_model(small_unet(), _config("alpha above the rank")).save_pretrained(tmp_path / "a")
    (tmp_path / "a/adapter_model.safetensors").rename(tmp_path / "alone.safetensors")
    with pytest.warns(UserWarning, match="no alpha: adapter_config.json.*is missing; applied with alpha = rank"):
        _merged(tmp_path / "alone.safetensors")


@pytest.mark.parametrize(
    "said",
    [{"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"}, {"use_qalora": True}, {"kasa_config": {"r": 1}}],
)
def test_a_header_by_which_the_tensors_are_not_all_is_refused_by_name(tmp_path, said):
    unet = small_unet()
    unet.add_adapter(_config("alpha above the rank"))
    unet.save_lora_adapter(tmp_path)
    (file,) = tmp_path.glob("*.safetensors")
    header = {"lora_adapter_metadata": json.dumps({"r": 4, "lora_alpha": 16} | said)}
    save_file(load_file(file), file, metadata=header)
    with pytest.raises(UserError, match=next(iter(said))):
        _merged(file)
