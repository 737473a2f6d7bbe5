"""Rectified flow: which noise levels a base knows, the training objective, and the solver that draws.

A noise level is a sigma in (0, 1]: x = (1 - sigma) latents + sigma noise, and the model predicts noise - latents
(Liu et al. 2022, Eq. 1; Esser et al. 2024, Eq. 13). No model here.
"""

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from delora_sd.errors import UserError
from delora_sd.settings import SigmaSampling, SigmaWeighting

SCHEDULER = "FlowMatchEulerDiscreteScheduler"

USUAL_NUM_STEPS = 50
"""Steps of the pipelines' own default: at which `shifted` training visits the solver's sigmas."""

_OTHER_SIGMAS = (
    "shift_terminal",
    "use_karras_sigmas",
    "use_exponential_sigmas",
    "use_beta_sigmas",
    "invert_sigmas",
    "stochastic_sampling",
)
"""Options that make other schedules of the same class; no base we know sets one."""


@dataclass(frozen=True, kw_only=True)
class FlowSchedule:
    """How a base's sigmas are shifted; what its scheduler file says."""

    prediction_type: ClassVar[str] = "flow"
    is_dynamic: bool
    """By the number of tokens, so that large images start as noisy as small ones; else by `shift`."""
    shift: float
    base_shift: float
    max_shift: float
    base_tokens: int
    max_tokens: int

    def mu(self, num_tokens: int, num_steps: int) -> float:
        """Returns the shift that diffusers' pipelines take: on a line through two sizes, or always the same."""
        if not self.is_dynamic:
            return math.log(self.shift)
        slope = (self.max_shift - self.base_shift) / (self.max_tokens - self.base_tokens)
        return self.base_shift + slope * (num_tokens - self.base_tokens)


def read_flow_schedule(config: dict[str, Any], *, source: str) -> FlowSchedule:
    """Returns the schedule of a scheduler file; where the file is silent, its class's defaults.

    Raises:
        UserError: a schedule of another kind; `source` starts the message.
    """
    name = str(config.get("_class_name") or SCHEDULER)
    if name != SCHEDULER:
        raise UserError(f"{source}: its scheduler is {name[:80]}; a base that flows has {SCHEDULER}")
    if other := next((key for key in _OTHER_SIGMAS if config.get(key)), None):
        raise UserError(f"{source}: {SCHEDULER} with {other} is not supported; use another base")
    if config.get("time_shift_type", "exponential") != "exponential":
        raise UserError(f"{source}: time_shift_type {config['time_shift_type']}; expected exponential")
    schedule = FlowSchedule(
        is_dynamic=bool(config.get("use_dynamic_shifting", False)),
        shift=_positive(config, "shift", 1.0, source),
        base_shift=_positive(config, "base_shift", 0.5, source),
        max_shift=_positive(config, "max_shift", 1.15, source),
        base_tokens=int(_positive(config, "base_image_seq_len", 256.0, source)),
        max_tokens=int(_positive(config, "max_image_seq_len", 4096.0, source)),
    )
    if schedule.base_tokens == schedule.max_tokens:
        raise UserError(f"{source}: base_image_seq_len and max_image_seq_len are both {schedule.max_tokens}")
    return schedule


def _positive(config: dict[str, Any], key: str, default: float, source: str) -> float:
    value = config.get(key) if config.get(key) is not None else default
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e6:
        raise UserError(f"{source}: {key} {value!r}; expected a positive number")
    return float(value)


def shifted(sigmas: Tensor, mu: float) -> Tensor:
    """Returns sigmas moved towards noise (mu > 0); 0 and 1 stay (Esser et al. 2024, Eq. 23, alpha = e^mu)."""
    alpha = math.exp(mu)
    return alpha * sigmas / (1 + (alpha - 1) * sigmas)


@dataclass(frozen=True, kw_only=True)
class Flow:
    """The objective of rectified flow."""

    sampling: SigmaSampling
    weighting: SigmaWeighting
    mu: float
    """The shift of `sampling=shifted`: the solver's, for images of this size."""

    def draw_times(self, num: int, generator: torch.Generator) -> Float[Tensor, " num"]:
        """Returns sigmas in (0, 1]."""
        if self.sampling == "logit_normal":
            return torch.sigmoid(torch.randn(num, generator=generator))
        uniform = 1 - torch.rand(num, generator=generator)
        return shifted(uniform, self.mu) if self.sampling == "shifted" else uniform

    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        sigmas = _per_sample(times, latents)
        return (1 - sigmas) * latents + sigmas * noise

    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor:
        return noise - latents

    def weights(self, times: Tensor) -> Tensor | None:
        """Of each sample's loss (Esser et al. 2024, Sec. 3.1); None: all 1."""
        if self.weighting == "sigma_sqrt":
            return times**-2
        if self.weighting == "cosmap":
            return 2 / (math.pi * (1 - 2 * times + 2 * times**2))
        return None


def _per_sample(times: Tensor, like: Tensor) -> Tensor:
    return times.to(like.device, like.dtype).view(-1, *(1 for _ in like.shape[1:]))


class EulerSolver:
    """From sigma 1 to 0 in steps of Euler, the same for every base that flows; only the shift is the base's.

    Latents are kept in fp32: fifty small steps in bf16 would lose more than they add.
    """

    def __init__(self, num_steps: int, mu: float, *, device: torch.device | str):
        even = torch.linspace(1.0, 1 / num_steps, num_steps, dtype=torch.float64)
        self._sigmas = torch.cat([shifted(even, mu), torch.zeros(1, dtype=torch.float64)]).float().to(device)
        self.times: Tensor = self._sigmas[:-1]

    def step(self, prediction: Tensor, position: int, latents: Tensor) -> Tensor:
        return latents.float() + (self._sigmas[position + 1] - self._sigmas[position]) * prediction.float()
