"""A base's scheduler file: its noise schedule is taken over whole, its solver not at all; others are refused."""

import inspect
import warnings
from dataclasses import replace

import diffusers
import pytest
import torch
from diffusers import DDPMScheduler, SchedulerMixin

from delora_sd.diffusion.noise.schedule import read_noise_schedule
from delora_sd.errors import UserError

SD15 = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "steps_offset": 1}

OTHER_SCHEDULES = {
    "CMStochasticIterativeScheduler", "CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDPMWuerstchenScheduler",
    "EDMDPMSolverMultistepScheduler", "EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler",
    "FlowMatchHeunDiscreteScheduler", "FlowMatchLCMScheduler", "IPNDMScheduler", "KarrasVeScheduler", "SCMScheduler",
    "ScoreSdeVeScheduler", "UnCLIPScheduler", "VQDiffusionScheduler",
}  # fmt: skip
"""Classes of diffusers known to draw from something else; those of newer versions may be more."""


def _scheduler_classes() -> dict[str, type]:
    """Every scheduler that the installed diffusers exports."""
    classes = {name: getattr(diffusers, name) for name in dir(diffusers) if name.endswith("Scheduler")}
    return {name: kind for name, kind in classes.items() if inspect.isclass(kind)}


def _draws_sd(name: str) -> bool:
    try:
        read_noise_schedule({"_class_name": name}, source="model.base=x")
    except UserError:
        return False
    return True


def test_most_classes_of_diffusers_are_accepted_and_every_other_schedule_is_refused_by_name():
    accepted = {name for name in _scheduler_classes() if _draws_sd(name)}
    assert len(accepted) >= 20 and not accepted & OTHER_SCHEDULES
    for name in OTHER_SCHEDULES:
        with pytest.raises(UserError, match=f"model.base=x: {name} has no noise schedule of Stable Diffusion"):
            read_noise_schedule({"_class_name": name}, source="model.base=x")


@pytest.mark.parametrize("name", sorted(name for name in _scheduler_classes() if _draws_sd(name)))
@pytest.mark.parametrize("file", [{}, SD15, {"beta_schedule": "squaredcos_cap_v2"}], ids=["silent", "sd15", "cosine"])
def test_betas_are_those_of_the_class_the_file_names(name: str, file: dict):
    kind = _scheduler_classes()[name]
    if not issubclass(kind, SchedulerMixin):
        pytest.skip(f"{name} needs a package that is not installed")
    known = {key: value for key, value in file.items() if key in inspect.signature(kind.__init__).parameters}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # theirs, about numpy
        theirs = kind(**known)
    ours = DDPMScheduler(**read_noise_schedule({"_class_name": name, **file}, source="x").for_diffusers())
    assert torch.equal(ours.betas, theirs.betas)
    assert ours.config.prediction_type == theirs.config.get("prediction_type", "epsilon")


@pytest.mark.parametrize("betas", [[0.1, 0.2, 0.3], [0.5, 0.25, 0.125]])
def test_trained_betas_are_taken_step_by_step(betas: list[float]):
    file = {"trained_betas": betas, "num_train_timesteps": 3}
    ours = DDPMScheduler(**read_noise_schedule(file, source="x").for_diffusers())
    assert ours.betas.tolist() == pytest.approx(betas)


def test_what_a_file_says_of_spacing_offset_prediction_and_zero_snr_is_taken_over():
    file = {"timestep_spacing": "trailing", "steps_offset": 2, "prediction_type": "v_prediction"}
    schedule = read_noise_schedule(file | {"rescale_betas_zero_snr": True}, source="x")
    assert (schedule.timestep_spacing, schedule.steps_offset) == ("trailing", 2)
    assert (schedule.prediction_type, schedule.rescale_betas_zero_snr) == ("v_prediction", True)


SOLVER_OPTIONS = {
    "algorithm_type": "sde-dpmsolver++", "solver_type": "logrho", "solver_order": 3, "lower_order_final": False,
    "euler_at_final": True, "use_karras_sigmas": True, "use_exponential_sigmas": True, "use_beta_sigmas": True,
    "use_lu_lambdas": True, "final_sigmas_type": "sigma_min", "thresholding": True, "sample_max_value": 2.0,
    "dynamic_thresholding_ratio": 0.5, "lambda_min_clipped": -3.0, "variance_type": "learned_range",
    "clip_sample": True, "clip_sample_range": 0.1, "set_alpha_to_one": True, "skip_prk_steps": False,
    "interpolation_type": "log_linear", "sigma_min": 0.1, "sigma_max": 2.0, "original_inference_steps": 4,
    "timestep_scaling": 3.0, "predict_x0": False, "disable_corrector": [0], "eta": 1.0, "tau_func": None,
    "use_dynamic_shifting": True, "flow_shift": 3.0, "noise_sampler_seed": 7, "of_another_version": 1,
}  # fmt: skip


@pytest.mark.parametrize("option", SOLVER_OPTIONS)
def test_no_option_of_a_solver_is_taken_over(option: str):
    assert read_noise_schedule(SD15 | {option: SOLVER_OPTIONS[option]}, source="x") == read_noise_schedule(
        SD15, source="x"
    )


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ({"use_flow_sigmas": True}, "flow matching"),
        ({"timestep_type": "continuous"}, "timestep_type continuous"),
        ({"predict_epsilon": False}, "prediction_type sample"),
        ({"prediction_type": "sample"}, "prediction_type sample; expected epsilon or v_prediction"),
        ({"prediction_type": "flow_prediction"}, "prediction_type flow_prediction"),
        ({"beta_schedule": "laplace"}, "beta_schedule laplace; expected linear, scaled_linear or squaredcos_cap_v2"),
        ({"timestep_spacing": "karras"}, "timestep_spacing karras"),
        ({"num_train_timesteps": 0}, "num_train_timesteps 0"),
        ({"num_train_timesteps": "many"}, "num_train_timesteps many"),
        ({"steps_offset": -1}, "steps_offset -1"),
        ({"beta_end": 12}, "beta_end 12; expected a number between 0 and 1"),
        ({"beta_start": "small"}, "beta_start 'small'"),
        ({"trained_betas": [0.1, 0.2]}, "2 trained_betas for num_train_timesteps=1000"),
        ({"trained_betas": "betas.npy"}, "trained_betas is no list"),
        ({"trained_betas": [0.1, None], "num_train_timesteps": 2}, "trained_betas None"),
    ],
)
def test_what_cannot_be_drawn_is_refused_by_name(file: dict, message: str):
    with pytest.raises(UserError, match=f"^model.base=x: .*{message}"):
        read_noise_schedule(SD15 | file, source="model.base=x")


def test_a_file_of_flax_days_and_a_file_without_a_class_are_read():
    assert read_noise_schedule({"_class_name": "FlaxDDIMScheduler"} | SD15, source="x") == read_noise_schedule(
        SD15, source="x"
    )
    assert replace(read_noise_schedule({}, source="x"), beta_end=0.5) != read_noise_schedule({}, source="x")
