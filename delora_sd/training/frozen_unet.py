"""The frozen UNet as training uses it: what the recipe trains on, a pack's memory is measured on, a benchmark times."""

from typing import TYPE_CHECKING

import torch

from delora_sd.adapters.lowrank.quantization import quantize_linears
from delora_sd.diffusion.bases import Base
from delora_sd.diffusion.parts import load_unet
from delora_sd.settings import ModelConfig, TrainingConfig

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel


def load_training_unet(
    base: Base, model: ModelConfig, training: TrainingConfig, *, device: torch.device, dtype: torch.dtype
) -> "UNet2DConditionModel":
    """Returns the base's UNet on the device, its weights stored as `model.quantization` asks."""
    unet = load_unet(base, device=device, dtype=dtype)
    unet = unet.to(memory_format=torch.channels_last)
    quantize_linears(unet, model.quantization)
    if training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers checkpoints only in training mode; these UNets have no active dropout
    if training.compile:
        unet.compile(dynamic=False)
    return unet
