"""Every setting of the frozen UNet reaches training."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from delora_sd.diffusion.bases import find_base
from delora_sd.files.run_folder import read_lines
from delora_sd.quantization import is_quantized
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.loop.objective import load_training_denoiser
from delora_sd.training.recipe import train_pack


def _load(model: ModelConfig, training: TrainingConfig):
    return load_training_denoiser(find_base(model), model, training, device=torch.device("cpu"), dtype=torch.float32)


def test_weights_of_convolutions_are_channels_last(tiny_sd):
    unet = _load(ModelConfig(base=str(tiny_sd)), TrainingConfig())
    assert unet.conv_in.weight.is_contiguous(memory_format=torch.channels_last)
    assert not unet.is_gradient_checkpointing


def test_checkpointing_is_on_and_so_is_the_training_mode_it_needs(tiny_sd):
    unet = _load(ModelConfig(base=str(tiny_sd)), TrainingConfig(gradient_checkpointing=True))
    assert unet.is_gradient_checkpointing and unet.training


@pytest.mark.filterwarnings("ignore:TorchaoLoraLinear:UserWarning")  # PEFT's, when diffusers loads the export back
def test_a_quantised_base_is_what_trains(tiny_sd, photo_folder, tmp_path):
    pytest.importorskip("torchao", reason="NO torchao: pip install delora_sd[quantize]")
    model = ModelConfig(base=str(tiny_sd), quantization="int8")
    unet = _load(model, TrainingConfig())
    linears = [layer for layer in unet.modules() if isinstance(layer, nn.Linear)]
    assert linears and all(is_quantized(layer) for layer in linears)
    config = TrainConfig(
        output_dir=str(tmp_path / "int8"),
        model=model,
        data=DataConfig(photos=str(photo_folder), class_word="dog"),
        adapter=AdapterConfig(rank=2),
        training=TrainingConfig(num_steps=2, log_every=1, prior_weight=0.0, export_check="tensors"),
    )
    plain = replace(config, output_dir=str(tmp_path / "plain"), model=replace(model, quantization="none"))
    results = [train_pack([each])[0] for each in (config, plain)]
    assert [result.failure for result in results] == [None, None]
    losses = [[event["loss"] for event in read_lines(result.run.events) if "loss" in event] for result in results]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)
