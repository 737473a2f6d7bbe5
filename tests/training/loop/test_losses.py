"""Instance and class loss of every adapter, against the definition."""

from dataclasses import replace

import pytest
import torch

from delora_sd.diffusion.noise.objective import Ddpm
from delora_sd.training.loop.batches import Batch
from delora_sd.training.loop.objective import pack_losses

ALPHAS = torch.linspace(0.99, 0.01, 100)


def make_batch(num_samples: int) -> Batch:
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, num_samples, 4, 3, 5, generator=generator)
    timesteps = torch.randint(0, 100, (num_samples,), generator=generator)
    conditions = {"tokens": torch.zeros(num_samples, 2, 3)}
    return Batch(latents=latents, noise=noise, times=timesteps, conditions=conditions)


class HalfOfWhatItSees(torch.nn.Module):
    """Stands in for the denoiser."""

    def forward(self, noisy: torch.Tensor, times: torch.Tensor, conditions: dict) -> torch.Tensor:
        return noisy / 2


def naive_losses(batch: Batch) -> list[float]:
    """One per sample: the mean squared error of the noise (Ho et al. 2020, Eq. 14)."""
    losses = []
    for latent, noise, timestep in zip(batch.latents, batch.noise, batch.times, strict=True):
        noisy = ALPHAS[timestep].sqrt() * latent + (1 - ALPHAS[timestep]).sqrt() * noise
        losses.append((noisy / 2 - noise).square().mean().item())
    return losses


def losses_of(batch: Batch, prior_weights: list[float]) -> tuple[list[float], list[float]]:
    weights = torch.tensor(prior_weights)
    objective = Ddpm(alphas_cumprod=ALPHAS, prediction_type="epsilon")
    found = pack_losses(HalfOfWhatItSees(), batch, objective=objective, prior_weights=weights)
    return found[0].tolist(), found[1].tolist()


def test_the_first_half_of_each_adapters_samples_are_its_subject_and_the_second_its_class():
    """Two adapters, two photos and two class images each."""
    batch = make_batch(8)
    each = naive_losses(batch)
    instance, prior = losses_of(batch, [0.5, 2.0])
    assert instance == pytest.approx([(each[0] + each[1]) / 2, (each[4] + each[5]) / 2], rel=1e-5)
    assert prior == pytest.approx([0.5 * (each[2] + each[3]) / 2, 2.0 * (each[6] + each[7]) / 2], rel=1e-5)


def test_weights_scale_the_squared_error_of_each_place_and_the_mean_is_over_all_places():
    batch = make_batch(4)
    weights = torch.rand(4, 1, 3, 5, generator=torch.Generator().manual_seed(1))
    instance, prior = losses_of(replace(batch, weights=weights), [2.0])
    each = []
    for latent, noise, timestep, weight in zip(batch.latents, batch.noise, batch.times, weights[:, 0], strict=True):
        noisy = ALPHAS[timestep].sqrt() * latent + (1 - ALPHAS[timestep]).sqrt() * noise
        each.append(sum((weight * (noisy / 2 - noise)[channel] ** 2).sum().item() for channel in range(4)) / (4 * 15))
    assert instance == pytest.approx([(each[0] + each[1]) / 2], rel=1e-5)
    assert prior == pytest.approx([2.0 * (each[2] + each[3]) / 2], rel=1e-5)


def test_an_objectives_weights_stay_with_their_samples_in_either_half():
    """The trap of other scripts: weights of the whole batch on the instance half, after the prior half was cut off."""

    class Weighted(Ddpm):
        def weights(self, times: torch.Tensor) -> torch.Tensor:
            return times.float() + 1

    batch = make_batch(8)
    each = [loss * (time + 1) for loss, time in zip(naive_losses(batch), batch.times.tolist(), strict=True)]
    objective = Weighted(alphas_cumprod=ALPHAS, prediction_type="epsilon")
    instance, prior = pack_losses(
        HalfOfWhatItSees(), batch, objective=objective, prior_weights=torch.tensor([0.5, 2.0])
    )
    assert instance.tolist() == pytest.approx([(each[0] + each[1]) / 2, (each[4] + each[5]) / 2], rel=1e-5)
    assert prior.tolist() == pytest.approx([0.5 * (each[2] + each[3]) / 2, 2.0 * (each[6] + each[7]) / 2], rel=1e-5)


def test_without_prior_preservation_every_sample_is_of_the_subject():
    batch = make_batch(6)
    each = naive_losses(batch)
    instance, prior = losses_of(batch, [0.0, 0.0])
    assert instance == pytest.approx([sum(each[:3]) / 3, sum(each[3:]) / 3], rel=1e-5)
    assert prior == [0.0, 0.0]
