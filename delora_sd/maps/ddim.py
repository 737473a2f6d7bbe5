"""DDIM without noise (Song et al. 2021, Eq. 12 with sigma 0): what Table 2's images were drawn with."""

import torch
from torch import Tensor

from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.noise.schedule import NoiseSchedule
from delora_sd.diffusion.noise.solver import check_timesteps
from delora_sd.errors import UserError


class Ddim:
    """A solver as drawing takes it; as Stable Diffusion's own code has it: steps counted from the first but one
    ("leading"), nothing clipped, and the last step ends at the schedule's first noise."""

    def __init__(self, base: Base, num_steps: int, *, device: torch.device | str):
        if not isinstance(base.schedule, NoiseSchedule):
            raise UserError(f"solver=ddim: {base.name} has no steps of noise that DDIM could take; leave solver out")
        from diffusers import DDIMScheduler

        spacing = {"timestep_spacing": "leading", "steps_offset": 1}
        self._scheduler = DDIMScheduler(
            **(base.schedule.for_diffusers() | spacing), clip_sample=False, set_alpha_to_one=False, thresholding=False
        )
        self._scheduler.set_timesteps(num_steps, device=device)
        self.times: Tensor = self._scheduler.timesteps
        check_timesteps(self.times.tolist(), base.schedule, num_steps)

    def step(self, prediction: Tensor, position: int, latents: Tensor) -> Tensor:
        return self._scheduler.step(prediction, self.times[position], latents, return_dict=False)[0]
