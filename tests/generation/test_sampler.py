"""An image depends on weights, prompt and seed: not on its batch, not on its neighbours."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

from delora_sd.data.prompts import Prompt
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.noise.schedule import read_noise_schedule
from delora_sd.diffusion.noise.solver import build_solver
from delora_sd.errors import UserError
from delora_sd.generation import sampler as sampler_module
from delora_sd.generation.model import load_model
from delora_sd.generation.requests import ImageRequest, SamplingSettings
from delora_sd.generation.sampler import Sampler, initial_latents, render_images, sample_images
from delora_sd.generation.text_once import projecting_text_once
from delora_sd.settings import ModelConfig
from make_tiny_sd import SCHEDULER, write_tiny_sd

TEXTS = [f"a photo of qwe dog number {i}" for i in range(14)]
SEEDS = [3 * i for i in range(14)]
SAMPLING = SamplingSettings(num_inference_steps=4, guidance=7.5, negative_prompt="blurry", size_px=32)


def _load(folder: Path, texts: list[str] = TEXTS) -> Sampler:
    base = find_base(ModelConfig(base=str(folder)))
    return load_model(base, device=torch.device("cpu"), dtype=torch.float32).sampler(texts, SAMPLING)


@pytest.fixture(scope="module")
def sampler(tiny_sd: Path) -> Sampler:
    return _load(tiny_sd)


@pytest.fixture(scope="module")
def one_by_one(sampler: Sampler) -> np.ndarray:
    """(14, 32, 32, 3): every image drawn alone."""
    return _pixels([sample_images(sampler, [text], [seed])[0] for text, seed in zip(TEXTS, SEEDS, strict=True)])


def _under(sampler: Sampler, schedule: dict) -> Sampler:
    """The same model, said to be trained under another schedule."""
    return replace(sampler, base=replace(sampler.base, schedule=read_noise_schedule(schedule, source="x")))


def _pixels(images: list) -> np.ndarray:
    return np.stack([np.asarray(image, dtype=np.int16) for image in images])


def _render(sampler: Sampler, batch_size: int, say=lambda text: None) -> np.ndarray:
    requests = [
        ImageRequest(prompt=Prompt(index=i, template=text, text=text), seed=seed, file=Path(f"{i}.png"))
        for i, (text, seed) in enumerate(zip(TEXTS, SEEDS, strict=True))
    ]
    images = []
    render_images(
        requests,
        lambda request: True,
        sampler=sampler,
        batch_size=batch_size,
        save=lambda batch: images.extend(image for _, image in batch),
        say=say,
    )
    return _pixels(images)


@pytest.mark.parametrize("batch_size", [1, 4, 7])
def test_batch_size_never_changes_an_image(sampler: Sampler, one_by_one: np.ndarray, batch_size: int):
    """Sums run in another order in another batch: at most one of 255 levels, where rounding tips over."""
    assert np.abs(_render(sampler, batch_size) - one_by_one).max() <= 1


def test_images_differ_by_prompt_and_by_seed(sampler: Sampler):
    a, b, c = _pixels(sample_images(sampler, [TEXTS[0], TEXTS[0], TEXTS[5]], [0, 1, 0]))
    assert np.abs(a - b).max() > 20
    assert np.abs(a - c).max() > 1


FOREIGN_SOLVERS = {
    "deis": {"_class_name": "DEISMultistepScheduler", "algorithm_type": "deis", "solver_type": "logrho"},
    "sde": {"_class_name": "DPMSolverMultistepScheduler", "algorithm_type": "sde-dpmsolver++", "solver_order": 3},
    "older_dpm": {"_class_name": "DPMSolverSinglestepScheduler", "algorithm_type": "dpmsolver"},
    "karras": {"_class_name": "EulerDiscreteScheduler", "use_karras_sigmas": True, "sigma_min": 0.1, "sigma_max": 5.0},
    "ancestral": {"_class_name": "EulerAncestralDiscreteScheduler"},
    "unipc": {"_class_name": "UniPCMultistepScheduler", "solver_type": "bh2", "thresholding": True},
    "lcm": {"_class_name": "LCMScheduler", "clip_sample": True, "original_inference_steps": 4},
    "no_final_zero": {"_class_name": "DPMSolverMultistepScheduler", "final_sigmas_type": "sigma_min"},
    "learned": {"_class_name": "DDPMScheduler", "variance_type": "learned_range", "thresholding": True},
}
"""What fine-tunes ship in their scheduler/; the noise schedule is the same for all."""


@pytest.mark.parametrize("solver", FOREIGN_SOLVERS)
def test_whatever_solver_a_base_brings_along_the_image_is_the_same(
    solver: str, sampler: Sampler, one_by_one: np.ndarray
):
    file = {**SCHEDULER, "_class_name": "PNDMScheduler", **FOREIGN_SOLVERS[solver]}
    theirs = _under(sampler, file)
    assert (_pixels(sample_images(theirs, TEXTS[:1], SEEDS[:1])) == one_by_one[:1]).all()


OTHER_NOISE = {
    "cosine": {"beta_schedule": "squaredcos_cap_v2"},
    "linear": {"beta_schedule": "linear"},
    "zero_snr": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing"},
    "zero_snr_v": {"rescale_betas_zero_snr": True, "timestep_spacing": "trailing", "prediction_type": "v_prediction"},
    "leading": {"timestep_spacing": "leading", "steps_offset": 0},
    "own_betas": {"trained_betas": [0.001 + 0.0001 * i for i in range(100)], "num_train_timesteps": 100},
}


@pytest.mark.parametrize("noise", OTHER_NOISE)
def test_every_noise_schedule_is_drawn_the_same_call_after_call_and_in_any_batch(noise: str, sampler: Sampler):
    other = _under(sampler, SCHEDULER | OTHER_NOISE[noise])
    together = _pixels(sample_images(other, TEXTS[:3], SEEDS[:3]))
    assert (_pixels(sample_images(other, TEXTS[:3], SEEDS[:3])) == together).all()
    assert np.abs(_pixels(sample_images(other, TEXTS[1:2], SEEDS[1:2])) - together[1:2]).max() <= 1
    assert together.min() < together.max(), "not one colour, as of numbers that are not finite"


@pytest.mark.parametrize("spacing", ["linspace", "leading", "trailing"])
@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 25, 30, 50, 100])
def test_usual_numbers_of_steps_are_drawn_under_every_spacing(spacing: str, num_steps: int):
    schedule = read_noise_schedule(SCHEDULER | {"timestep_spacing": spacing}, source="x")
    assert len(build_solver(schedule, num_steps).timesteps) == num_steps


@pytest.mark.parametrize(
    ("noise", "num_steps"), [({}, 1000), ({"timestep_spacing": "leading"}, 1000), ({"num_train_timesteps": 20}, 25)]
)
def test_more_steps_than_the_schedule_holds_are_refused(noise: dict, num_steps: int):
    with pytest.raises(UserError, match=rf"num_inference_steps={num_steps}: too many .* use fewer"):
        build_solver(read_noise_schedule(SCHEDULER | noise, source="x"), num_steps)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction"])
def test_image_is_that_of_diffusers_own_pipeline(prediction_type: str, tmp_path: Path):
    folder = write_tiny_sd(tmp_path, prediction_type=prediction_type)
    pipeline = StableDiffusionPipeline.from_pretrained(str(folder), use_safetensors=True)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    theirs = pipeline(
        TEXTS[0],
        negative_prompt="blurry",
        num_inference_steps=4,
        guidance_scale=7.5,
        generator=torch.Generator().manual_seed(9),
    ).images
    ours = sample_images(_load(folder, TEXTS[:1]), TEXTS[:1], [9])
    assert np.abs(_pixels(ours) - _pixels(theirs)).max() <= 1


def test_noise_belongs_to_the_seed():
    together = initial_latents([5, 6], (4, 3, 3))
    assert torch.equal(together[1:], initial_latents([6], (4, 3, 3)))
    assert not torch.equal(together[0], together[1])


def test_too_little_memory_halves_the_batch_and_says_so(
    sampler: Sampler, one_by_one: np.ndarray, monkeypatch: pytest.MonkeyPatch
):
    """A pretended GPU that holds three images."""

    def small_gpu(sampler, texts, seeds):
        if len(texts) > 3:
            raise torch.OutOfMemoryError
        return sample_images(sampler, texts, seeds)

    said = []
    monkeypatch.setattr(sampler_module, "sample_images", small_gpu)
    pixels = _render(sampler, 8, said.append)
    assert np.abs(pixels - one_by_one).max() <= 1
    assert said == [f"not enough GPU memory: going on with {n} images per batch" for n in (4, 2)]


def test_not_even_one_image_fits(sampler: Sampler, monkeypatch: pytest.MonkeyPatch):
    def tiny_gpu(*_):
        raise torch.OutOfMemoryError

    monkeypatch.setattr(sampler_module, "sample_images", tiny_gpu)
    with pytest.raises(UserError, match="not enough GPU memory for one image of 32 px"):
        _render(sampler, 1)


def test_diverged_image_is_black_and_warned_of(sampler: Sampler):
    latents = torch.zeros(2, 4, 16, 16)
    latents[0, 0, 3, 3] = torch.inf
    with pytest.warns(UserWarning, match="1 of 2 images are not finite"):
        broken, fine = sampler_module._decode(sampler, latents)
    assert broken.getextrema() == ((0, 0),) * 3 and fine.getextrema() != ((0, 0),) * 3


def test_text_is_projected_once_and_not_a_bit_of_the_image_changes(sampler: Sampler, monkeypatch):
    attention = next(each for each in sampler.denoiser.modules() if getattr(each, "is_cross_attention", False))
    calls = []
    hook = attention.to_k.register_forward_hook(lambda layer, inputs, output: calls.append(output))
    once = _pixels(sample_images(sampler, TEXTS[:2], SEEDS[:2]))
    monkeypatch.setattr(sampler_module, "projecting_text_once", lambda denoiser: nullcontext())
    every_step = _pixels(sample_images(sampler, TEXTS[:2], SEEDS[:2]))
    hook.remove()
    assert (once == every_step).all()
    assert "forward" not in vars(attention.to_k), "the layer is as it was"
    assert all(torch.equal(call, calls[0]) for call in calls)


def test_text_is_projected_anew_when_it_is_another_tensor(sampler: Sampler):
    attention = next(each for each in sampler.denoiser.modules() if getattr(each, "is_cross_attention", False))
    text = torch.randn(1, 3, attention.to_k.in_features)
    with torch.no_grad(), projecting_text_once(sampler.denoiser):
        first, again, copy = attention.to_k(text), attention.to_k(text), attention.to_k(text.clone())
        other = attention.to_k(text + 1)
    assert again is first and copy is not first
    assert torch.equal(copy, first) and not torch.allclose(other, first)
