"""Rectified flow: levels, target, weights and the sampler, beside diffusers' own and beside a plain reading."""

import math

import pytest
import torch

from delora_sd.diffusion.families.flux2 import klein_mu
from delora_sd.diffusion.noise.flow import EulerSolver, Flow, FlowSchedule, read_flow_schedule, shifted
from delora_sd.errors import UserError

KLEIN = {"use_dynamic_shifting": True, "shift": 3.0, "base_shift": 0.5, "max_shift": 1.15}
STATIC = {"use_dynamic_shifting": False, "shift": 3.0}


def objective(sampling: str = "uniform", weighting: str = "none", mu: float = 1.0) -> Flow:
    return Flow(sampling=sampling, weighting=weighting, mu=mu)


def schedule_of(config: dict) -> FlowSchedule:
    return read_flow_schedule(config, source="model.base=x")


@pytest.mark.parametrize("num_steps", [1, 4, 28])
@pytest.mark.parametrize("num_tokens", [16, 1024, 4096, 9216])
def test_the_solver_visits_kleins_sigmas(num_tokens: int, num_steps: int):
    """Beside diffusers' scheduler under the shift of its klein pipeline."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

    mu = klein_mu(num_tokens, num_steps)
    assert mu == pytest.approx(compute_empirical_mu(num_tokens, num_steps))
    scheduler = FlowMatchEulerDiscreteScheduler(**KLEIN)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / num_steps, num_steps).tolist(), mu=mu)
    times = EulerSolver(num_steps, mu, device="cpu").times
    torch.testing.assert_close(times, scheduler.sigmas[:-1], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("config", [KLEIN, STATIC])
def test_a_schedules_own_shift_is_the_pipelines(config: dict):
    """Z-Image's pipeline hands the scheduler a mu from the number of tokens, which it heeds where it shifts by size."""
    from diffusers import FlowMatchEulerDiscreteScheduler
    from diffusers.pipelines.z_image.pipeline_z_image import calculate_shift

    scheduler = FlowMatchEulerDiscreteScheduler(**config)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 9, 9).tolist(), mu=calculate_shift(1024))
    times = EulerSolver(9, schedule_of(config).mu(1024, 9), device="cpu").times
    torch.testing.assert_close(times, scheduler.sigmas[:-1], rtol=1e-5, atol=1e-6)


def test_steps_are_diffusers_steps():
    from diffusers import FlowMatchEulerDiscreteScheduler

    scheduler = FlowMatchEulerDiscreteScheduler(**STATIC)
    scheduler.set_timesteps(sigmas=torch.linspace(1, 1 / 5, 5).tolist())
    solver = EulerSolver(5, math.log(3.0), device="cpu")
    generator = torch.Generator().manual_seed(0)
    ours = theirs = torch.randn(2, 4, 8, 8, generator=generator)
    for position, time in enumerate(scheduler.timesteps):
        velocity = torch.randn(ours.shape, generator=generator)
        ours = solver.step(velocity, position, ours)
        theirs = scheduler.step(velocity, time, theirs, return_dict=False)[0]
    torch.testing.assert_close(ours, theirs)


def test_the_true_velocity_leads_from_noise_to_the_image_and_its_opposite_away():
    """Training's target and the sampler agree on the sign: a model that knows the target draws the image."""
    generator = torch.Generator().manual_seed(0)
    image, noise = torch.randn(2, 1, 4, 8, 8, generator=generator)
    velocity = objective().target(image, noise, torch.ones(1))
    solver, drawn, opposite = EulerSolver(7, 1.0, device="cpu"), noise, noise
    for position, _ in enumerate(solver.times):
        drawn = solver.step(velocity, position, drawn)
        opposite = solver.step(-velocity, position, opposite)
    torch.testing.assert_close(drawn, image, rtol=1e-4, atol=1e-5)
    assert (opposite - image).norm() > 1.9 * velocity.norm()


def test_noise_and_target_are_the_papers():
    """Liu et al. 2022: x_s on the straight line from image to noise, and its derivative along s."""
    generator = torch.Generator().manual_seed(0)
    latents, noise = torch.randn(2, 3, 4, 2, 2, generator=generator)
    sigmas = torch.tensor([0.1, 0.5, 1.0])
    flow = objective()
    noisy, target = flow.noisy(latents, noise, sigmas), flow.target(latents, noise, sigmas)
    for i, sigma in enumerate(sigmas.tolist()):
        torch.testing.assert_close(noisy[i], (1 - sigma) * latents[i] + sigma * noise[i])
        torch.testing.assert_close(target[i], noise[i] - latents[i])
    later = flow.noisy(latents, noise, sigmas + 1e-2)
    torch.testing.assert_close((later - noisy) / 1e-2, target, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("sampling", ["uniform", "logit_normal", "shifted"])
def test_levels_are_a_function_of_the_generator_and_never_zero(sampling: str):
    flow = objective(sampling, mu=1.2)
    one, again = (flow.draw_times(4000, torch.Generator().manual_seed(3)) for _ in range(2))
    assert one.equal(again)
    assert one.min() > 0 and one.max() <= 1
    medians = {"uniform": 0.5, "logit_normal": 0.5, "shifted": float(shifted(torch.tensor(0.5), 1.2))}
    assert one.median() == pytest.approx(medians[sampling], abs=0.03)
    middle = {"uniform": 0.5, "logit_normal": 0.728, "shifted": 0.37}  # share between 1/4 and 3/4
    assert ((one > 0.25) & (one < 0.75)).float().mean() == pytest.approx(middle[sampling], abs=0.05)


@pytest.mark.parametrize("weighting", ["sigma_sqrt", "cosmap"])
def test_weights_are_those_of_diffusers_scripts(weighting: str):
    from diffusers.training_utils import compute_loss_weighting_for_sd3

    sigmas = torch.tensor([0.05, 0.4, 0.9, 1.0])
    expected = compute_loss_weighting_for_sd3(weighting, sigmas)
    torch.testing.assert_close(objective(weighting=weighting).weights(sigmas), expected)
    assert objective().weights(sigmas) is None


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"_class_name": "DDIMScheduler"}, "DDIMScheduler"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas"),
        ({"shift_terminal": 0.02}, "shift_terminal"),
        ({"time_shift_type": "linear"}, "linear"),
        ({"shift": 0}, "shift 0"),
        ({"base_image_seq_len": 4096}, "4096"),
        ({"max_shift": "much"}, "'much'"),
    ],
)
def test_schedules_of_another_kind_are_refused(config: dict, said: str):
    with pytest.raises(UserError, match=said):
        schedule_of(config)
