"""Noise, targets and losses, against diffusers' own scheduler."""

import pytest
import torch
from diffusers import DDPMScheduler

from delora_sd.diffusion.noise.objective import mse_per_sample, noisy_latents, training_target

TIMESTEPS = torch.tensor([0, 1, 500, 998, 999])


@pytest.fixture
def scheduler() -> DDPMScheduler:
    return DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")


@pytest.fixture
def samples() -> tuple[torch.Tensor, torch.Tensor]:
    """(latents, noise)."""
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(5, 4, 3, 7, generator=generator) for _ in range(2))


def test_noisy_latents_are_diffusers(scheduler, samples):
    latents, noise = samples
    ours = noisy_latents(latents, noise, TIMESTEPS, scheduler.alphas_cumprod)
    torch.testing.assert_close(ours, scheduler.add_noise(latents, noise, TIMESTEPS), rtol=1e-6, atol=1e-6)


def test_v_target_is_diffusers(scheduler, samples):
    latents, noise = samples
    ours = training_target(latents, noise, TIMESTEPS, scheduler.alphas_cumprod, "v_prediction")
    torch.testing.assert_close(ours, scheduler.get_velocity(latents, noise, TIMESTEPS), rtol=1e-6, atol=1e-6)


def test_epsilon_target_is_the_noise(scheduler, samples):
    latents, noise = samples
    assert training_target(latents, noise, TIMESTEPS, scheduler.alphas_cumprod, "epsilon") is noise


def test_sample_and_v_give_the_latents_back(scheduler, samples):
    """x = sqrt(a) z - sqrt(1 - a) v: the two formulas belong together."""
    latents, noise = samples
    alphas = scheduler.alphas_cumprod
    z = noisy_latents(latents, noise, TIMESTEPS, alphas)
    v = training_target(latents, noise, TIMESTEPS, alphas, "v_prediction")
    a = alphas[TIMESTEPS].view(-1, 1, 1, 1)
    torch.testing.assert_close(a.sqrt() * z - (1 - a).sqrt() * v, latents, rtol=1e-5, atol=1e-5)


def test_half_precision_latents_keep_their_dtype(scheduler, samples):
    latents, noise = (tensor.bfloat16() for tensor in samples)
    ours = noisy_latents(latents, noise, TIMESTEPS, scheduler.alphas_cumprod)
    assert ours.dtype == torch.bfloat16
    full = noisy_latents(latents.float(), noise.float(), TIMESTEPS, scheduler.alphas_cumprod)
    torch.testing.assert_close(ours.float(), full, rtol=2e-2, atol=2e-2)


def test_loss_is_per_sample_and_in_fp32(samples):
    prediction, target = samples
    naive = torch.stack([((p - t) ** 2).mean() for p, t in zip(prediction, target, strict=True)])
    torch.testing.assert_close(mse_per_sample(prediction, target), naive)
    far, near = torch.full((1, 4, 2, 2), 300.0).half(), torch.zeros(1, 4, 2, 2).half()
    assert mse_per_sample(far, near).tolist() == [90_000.0]  # fp16 ends at 65,504
