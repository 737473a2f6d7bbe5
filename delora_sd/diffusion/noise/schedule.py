"""What a base was trained under: its noise schedule, prediction type and timestep spacing. No torch here.

A scheduler file also names a solver and its options; those are left unread: which solver draws is ours.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from delora_sd.errors import UserError

PREDICTION_TYPES = ("epsilon", "v_prediction")
BETA_SCHEDULES = ("linear", "scaled_linear", "squaredcos_cap_v2")
SPACINGS = ("linspace", "leading", "trailing")
MAX_TRAIN_TIMESTEPS = 100_000

_DDPM = (0.0001, 0.02, "linear")
_KARRAS = (0.00085, 0.012, "linear")
_CONSISTENCY = (0.00085, 0.012, "scaled_linear")
_DEFAULTS: dict[str, tuple[float, float, str]] = {
    "DDIMInverseScheduler": _DDPM,
    "DDIMParallelScheduler": _DDPM,
    "DDIMScheduler": _DDPM,
    "DDPMParallelScheduler": _DDPM,
    "DDPMScheduler": _DDPM,
    "DEISMultistepScheduler": _DDPM,
    "DPMSolverMultistepInverseScheduler": _DDPM,
    "DPMSolverMultistepScheduler": _DDPM,
    "DPMSolverSDEScheduler": _KARRAS,
    "DPMSolverSinglestepScheduler": _DDPM,
    "EulerAncestralDiscreteScheduler": _DDPM,
    "EulerDiscreteScheduler": _DDPM,
    "HeunDiscreteScheduler": _KARRAS,
    "KDPM2AncestralDiscreteScheduler": _KARRAS,
    "KDPM2DiscreteScheduler": _KARRAS,
    "LCMScheduler": _CONSISTENCY,
    "LMSDiscreteScheduler": _DDPM,
    "PNDMScheduler": _DDPM,
    "RePaintScheduler": _DDPM,
    "SASolverScheduler": _DDPM,
    "TCDScheduler": _CONSISTENCY,
    "UniPCMultistepScheduler": _DDPM,
}
"""(beta_start, beta_end, beta_schedule) where the file is silent, by diffusers' class. All share one family of noise
schedules; a class that is not listed has another (flow matching, EDM's sigmas, tokens) and cannot be drawn."""


@dataclass(frozen=True, kw_only=True)
class NoiseSchedule:
    """All that is taken over from a base's scheduler; the names are diffusers'."""

    num_train_timesteps: int
    beta_start: float
    beta_end: float
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
    trained_betas: tuple[float, ...] | None
    """Every step's own beta; none: as the three above say."""
    rescale_betas_zero_snr: bool
    """The last step is pure noise (Lin et al. 2024)."""
    prediction_type: Literal["epsilon", "v_prediction"]
    timestep_spacing: Literal["linspace", "leading", "trailing"]
    steps_offset: int

    def for_diffusers(self) -> dict[str, Any]:
        """Returns the settings as the scheduler classes take them."""
        settings = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return settings | {"trained_betas": None if self.trained_betas is None else list(self.trained_betas)}


def read_noise_schedule(config: Mapping[str, Any], *, source: str) -> NoiseSchedule:
    """Returns the schedule of a scheduler file; where the file is silent, its class's defaults.

    The spacing is the exception: a silent file leaves it to the solver, as `from_config` does in diffusers.

    Raises:
        UserError: a schedule we cannot draw; `source` starts the message.
    """
    name = str(config.get("_class_name") or "DDPMScheduler").removeprefix("Flax")
    if name not in _DEFAULTS:
        raise UserError(f"{source}: {name} has no noise schedule of Stable Diffusion 1.x/2.x; use another base")
    _refuse_other_schedules(config, name, source)
    beta_start, beta_end, beta_schedule = _DEFAULTS[name]
    schedule = NoiseSchedule(
        num_train_timesteps=_whole(config, "num_train_timesteps", 1000, 2, MAX_TRAIN_TIMESTEPS, source),
        beta_start=_beta(config.get("beta_start", beta_start), "beta_start", source),
        beta_end=_beta(config.get("beta_end", beta_end), "beta_end", source),
        beta_schedule=_one_of(config, "beta_schedule", beta_schedule, BETA_SCHEDULES, source),
        trained_betas=_trained_betas(config, source),
        rescale_betas_zero_snr=bool(config.get("rescale_betas_zero_snr", False)),
        prediction_type=_one_of(config, "prediction_type", "epsilon", PREDICTION_TYPES, source),
        timestep_spacing=_one_of(config, "timestep_spacing", "linspace", SPACINGS, source),
        steps_offset=_whole(config, "steps_offset", 0, 0, MAX_TRAIN_TIMESTEPS, source),
    )
    betas = schedule.trained_betas
    if betas is not None and len(betas) != schedule.num_train_timesteps:
        raise UserError(
            f"{source}: {len(betas)} trained_betas for num_train_timesteps={schedule.num_train_timesteps}; "
            "expected one per step"
        )
    return schedule


def _refuse_other_schedules(config: Mapping[str, Any], name: str, source: str) -> None:
    """Options with which a class of the family leaves it."""
    if config.get("use_flow_sigmas"):
        raise UserError(f"{source}: {name} with use_flow_sigmas (flow matching) is not supported; use another base")
    if config.get("timestep_type", "discrete") != "discrete":
        kind = config["timestep_type"]
        raise UserError(f"{source}: {name} with timestep_type {kind} is not supported; expected discrete timesteps")
    if config.get("predict_epsilon") is False:  # how diffusers of 2022 wrote it
        raise UserError(f"{source}: prediction_type sample; expected {' or '.join(PREDICTION_TYPES)}")


def _one_of(config: Mapping[str, Any], key: str, default: str, accepted: tuple[str, ...], source: str) -> Any:
    value = config.get(key, default)
    if value not in accepted:
        raise UserError(f"{source}: {key} {value}; expected {', '.join(accepted[:-1])} or {accepted[-1]}")
    return value


def _whole(config: Mapping[str, Any], key: str, default: int, lowest: int, highest: int, source: str) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or not lowest <= value <= highest:
        raise UserError(f"{source}: {key} {value}; expected a whole number from {lowest} to {highest}")
    return value


def _trained_betas(config: Mapping[str, Any], source: str) -> tuple[float, ...] | None:
    betas = config.get("trained_betas")
    if betas is None:
        return None
    if not isinstance(betas, list):
        raise UserError(f"{source}: trained_betas is no list of numbers; get the model again")
    return tuple(_beta(beta, "trained_betas", source) for beta in betas)


def _beta(value: Any, key: str, source: str) -> float:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not is_number or not 0 < value < 1:
        raise UserError(f"{source}: {key} {value!r}; expected a number between 0 and 1")
    return float(value)
