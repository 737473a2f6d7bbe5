"""The UNet as training uses it, frozen and adapted, and the loss of every adapter in a pack."""

from typing import TYPE_CHECKING

import torch
from jaxtyping import Float
from torch import Tensor, nn

from delora_sd.diffusion.bases import Base
from delora_sd.diffusion.objective import mse_per_sample, noisy_latents, training_target
from delora_sd.diffusion.parts import load_unet
from delora_sd.diffusion.quantization import quantize_linears
from delora_sd.settings import ModelConfig, TrainingConfig
from delora_sd.training.loop.batches import Batch

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


class AdaptedUNet(nn.Module):
    """The frozen UNet and its pack as one module: what accelerate prepares and torch.compile sees."""

    def __init__(self, unet: nn.Module, pack: nn.Module):
        super().__init__()
        self.unet = unet
        self.pack = pack

    def forward(self, latents: Tensor, timesteps: Tensor, embeddings: Tensor) -> Tensor:
        self.pack.make_factors()
        dtype = next(self.unet.parameters()).dtype
        return self.unet(latents.to(dtype), timesteps, embeddings.to(dtype)).sample.float()


def pack_losses(
    model: nn.Module,
    batch: Batch,
    *,
    alphas_cumprod: Tensor,
    prediction_type: str,
    prior_weights: Float[Tensor, " adapters"],
) -> tuple[Float[Tensor, " adapters"], Float[Tensor, " adapters"]]:
    """Returns (instance loss, class loss weighted by the prior weight), one mean each per adapter.

    Their sum is what an adapter minimises (DreamBooth's prior preservation); no adapter sees another's samples.
    `prior_weights` are on the CPU: looking at them must not wait for the device.
    """
    noisy = noisy_latents(batch.latents, batch.noise, batch.timesteps, alphas_cumprod)
    target = training_target(batch.latents, batch.noise, batch.timesteps, alphas_cumprod, prediction_type)
    prediction = model(noisy, batch.timesteps, batch.embeddings)
    losses = mse_per_sample(prediction, target, batch.weights).unflatten(0, (len(prior_weights), -1))  # (adapters, n)
    if not prior_weights.any():
        return losses.mean(1), torch.zeros_like(losses[:, 0])
    instance, prior = losses.chunk(2, dim=1)
    return instance.mean(1), prior.mean(1) * prior_weights.to(losses.device, non_blocking=True)
