"""Which solver draws: DPM-Solver++ (Lu et al. 2022), multistep, second order, the same for every base."""

import itertools
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from delora_sd.diffusion.noise.schedule import NoiseSchedule
from delora_sd.errors import UserError

if TYPE_CHECKING:
    from diffusers import DPMSolverMultistepScheduler

LOWEST_LOG_SNR = -5.1
"""Where a model that predicts the noise starts, at the latest: lambda = log(alpha / sigma). Below, dividing by alpha
blows its errors up a thousand times (cosine schedules, zero-SNR); Stable Diffusion's own schedule ends at -2.7."""


class DpmSolver:
    """A solver as drawing takes it."""

    def __init__(self, schedule: NoiseSchedule, num_steps: int, *, device: torch.device | str):
        self._scheduler = build_solver(schedule, num_steps, device=device)
        self.times: Tensor = self._scheduler.timesteps

    def step(self, prediction: Tensor, position: int, latents: Tensor) -> Tensor:
        return self._scheduler.step(prediction, self.times[position], latents, return_dict=False)[0]


def build_solver(
    schedule: NoiseSchedule, num_steps: int, *, device: torch.device | str = "cpu"
) -> "DPMSolverMultistepScheduler":
    """Returns the solver, its timesteps set. Every option that a base might bring along is ours.

    Raises:
        UserError: more steps than the schedule holds under its spacing.
    """
    from diffusers import DPMSolverMultistepScheduler

    solver = DPMSolverMultistepScheduler(
        **schedule.for_diffusers(),
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        euler_at_final=False,
        final_sigmas_type="zero",
        lambda_min_clipped=LOWEST_LOG_SNR if schedule.prediction_type == "epsilon" else -float("inf"),
        thresholding=False,
        use_karras_sigmas=False,
        use_exponential_sigmas=False,
        use_beta_sigmas=False,
        use_lu_lambdas=False,
        use_flow_sigmas=False,
    )
    solver.set_timesteps(num_steps, device=device)
    check_timesteps(solver.timesteps.tolist(), schedule, num_steps)
    return solver


def check_timesteps(timesteps: list[int], schedule: NoiseSchedule, num_steps: int) -> None:
    """Raises UserError for more steps than the schedule holds.

    A timestep twice is a division by zero, one outside the schedule was never trained.
    """
    is_descending = all(before > after for before, after in itertools.pairwise(timesteps))
    is_inside = timesteps[-1] >= 0 and timesteps[0] < schedule.num_train_timesteps
    if not (is_descending and is_inside and len(timesteps) == num_steps):
        raise UserError(
            f"num_inference_steps={num_steps}: too many for the base's schedule of {schedule.num_train_timesteps} "
            f"steps (timestep_spacing {schedule.timestep_spacing}, steps_offset {schedule.steps_offset}); "
            "use fewer, 25 are usual"
        )
