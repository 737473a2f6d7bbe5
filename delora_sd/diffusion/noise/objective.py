"""The training objective of DDPM and its v-prediction form. Tensors in, tensors out; no model."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Ddpm:
    """DDPM's loss at uniformly drawn whole timesteps (Ho et al. 2020, Algorithm 1)."""

    alphas_cumprod: Float[Tensor, " steps"]
    prediction_type: PredictionType

    def draw_times(self, num: int, generator: torch.Generator) -> Int[Tensor, " num"]:
        return torch.randint(0, len(self.alphas_cumprod), (num,), generator=generator)

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return noisy_latents(latents, noise, times, self.alphas_cumprod)

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return training_target(latents, noise, times, self.alphas_cumprod, self.prediction_type)

    def weights(self, times: Tensor) -> None:
        """Every timestep counts alike."""


def noisy_latents(
    latents: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
) -> Float[Tensor, "batch channels height width"]:
    """Returns the forward process at each sample's timestep: sqrt(a) x + sqrt(1 - a) e (Ho et al. 2020, Eq. 4)."""
    signal, sigma = _signal_and_sigma(timesteps, alphas_cumprod, like=latents)
    return signal * latents + sigma * noise


def training_target(
    latents: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
    prediction_type: PredictionType,
) -> Float[Tensor, "batch channels height width"]:
    """Returns what the UNet should predict: the noise, or v = sqrt(a) e - sqrt(1 - a) x (Salimans & Ho 2022)."""
    if prediction_type == "epsilon":
        return noise
    signal, sigma = _signal_and_sigma(timesteps, alphas_cumprod, like=latents)
    return signal * noise - sigma * latents


def mse_per_sample(
    prediction: Float[Tensor, "batch channels height width"],
    target: Float[Tensor, "batch channels height width"],
    weights: Float[Tensor, "batch 1 height width"] | None = None,
) -> Float[Tensor, " batch"]:
    """Returns each sample's mean squared error, in fp32 whatever the model's precision.

    Args:
        weights: Of each place's squared error. The mean is over all places, not over the weights: what a small
            subject teaches is no louder for its being small. None: all 1, to the bit.
    """
    errors = (prediction.float() - target.float()).square()
    return (errors if weights is None else errors * weights).mean(dim=(1, 2, 3))


def _signal_and_sigma(timesteps: Tensor, alphas_cumprod: Tensor, *, like: Tensor) -> tuple[Tensor, Tensor]:
    """Returns sqrt(a) and sqrt(1 - a), (batch, 1, 1, 1); the roots are taken in alphas_cumprod's precision."""
    alphas = alphas_cumprod.to(like.device)[timesteps.to(like.device)].view(-1, 1, 1, 1)
    return torch.sqrt(alphas).to(like.dtype), torch.sqrt(1.0 - alphas).to(like.dtype)
