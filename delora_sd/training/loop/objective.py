"""The denoiser as training uses it, frozen and adapted, and the loss of every adapter in a pack."""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from delora_sd.diffusion.cache import cast_conditions
from delora_sd.diffusion.families.family import Base, Conditions, Objective
from delora_sd.diffusion.noise.objective import mse_per_sample
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.quantization import quantize_linears
from delora_sd.settings import ModelConfig, TrainingConfig
from delora_sd.training.loop.batches import Batch


def load_training_denoiser(
    base: Base, model: ModelConfig, training: TrainingConfig, *, device: torch.device, dtype: torch.dtype
) -> nn.Module:
    """Returns the base's denoiser on the device, its weights stored as `model.quantization` asks."""
    denoiser = load_denoiser(base, device=device, dtype=dtype)
    denoiser = denoiser.to(memory_format=torch.channels_last)
    quantize_linears(denoiser, model.quantization)
    if training.gradient_checkpointing:
        denoiser.enable_gradient_checkpointing()
        denoiser.train()  # diffusers checkpoints only in training mode; these models have no active dropout
    if training.compile:
        denoiser.compile(dynamic=False)
    return denoiser


class AdaptedDenoiser(nn.Module):
    """The frozen denoiser and its pack as one module: what accelerate prepares and torch.compile sees."""

    def __init__(self, denoiser: nn.Module, pack: nn.Module, predict: Callable[..., Tensor]):
        super().__init__()
        self.denoiser = denoiser
        self.pack = pack
        self._predict = predict

    def forward(self, latents: Tensor, times: Tensor, conditions: Conditions) -> Tensor:
        self.pack.make_factors()
        dtype = next(self.denoiser.parameters()).dtype
        return self._predict(self.denoiser, latents.to(dtype), times, cast_conditions(conditions, dtype)).float()


def pack_losses(
    model: nn.Module,
    batch: Batch,
    *,
    objective: Objective,
    prior_weights: Float[Tensor, " adapters"],
) -> tuple[Float[Tensor, " adapters"], Float[Tensor, " adapters"]]:
    """Returns (instance loss, class loss weighted by the prior weight), one mean each per adapter.

    Their sum is what an adapter minimises (DreamBooth's prior preservation); no adapter sees another's samples.
    `prior_weights` are on the CPU: looking at them must not wait for the device.
    """
    noisy = objective.noisy(batch.latents, batch.noise, batch.times)
    target = objective.target(batch.latents, batch.noise, batch.times)
    prediction = model(noisy, batch.times, batch.conditions, **batch.inputs)
    losses = mse_per_sample(prediction, target, batch.weights)
    if (weights := objective.weights(batch.times)) is not None:
        losses = losses * weights.to(losses.device)
    losses = losses.unflatten(0, (len(prior_weights), -1))  # (adapters, n)
    if not prior_weights.any():
        return losses.mean(1), torch.zeros_like(losses[:, 0])
    instance, prior = losses.chunk(2, dim=1)
    return instance.mean(1), prior.mean(1) * prior_weights.to(losses.device, non_blocking=True)
