"""Does another tool draw what we draw? Exported files are loaded back by diffusers; one image is drawn with each."""

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from delora_sd.adapters.attach import Attached, is_packable
from delora_sd.adapters.lowrank.pack import detach
from delora_sd.diffusion.parts import load_denoiser, load_vae
from delora_sd.generation.requests import SamplingSettings
from delora_sd.generation.sampler import Sampler, sample_images
from delora_sd.training.before.plan import Plan
from delora_sd.training.loop.member import CellData, Member

NUM_INFERENCE_STEPS = 4
"""Enough for a wrong sign, scale or layer to show."""

SEED = 0

TOLERANCE_LEVELS = 2.0
"""Mean difference of two images in steps of 1/255: nobody sees it. Rounding to fp16 makes 0.001 to 0.02."""

_CAPTION = "the subject's caption"


def measure_exports(
    plan: Plan, denoiser: nn.Module, pack: Attached, exports: Mapping[Member, Sequence[Path]]
) -> dict[Member, dict[str, float | None]]:
    """Returns, per member, {file: how far its image is from the trained adapter's, mean in steps of 1/255}.

    None: diffusers could not load it. Warns of that, and of every difference that can be seen. {}: nothing exported, or
    a quantised base, whose rounding would be measured instead. Afterwards the denoiser is without our layers.
    """
    if not any(exports.values()) or plan.model.quantization != "none":
        return {member: {} for member in exports}
    vae = load_vae(plan.base, device=plan.accelerator.device, dtype=plan.dtype)
    samplers = {member: _sampler(plan, denoiser, vae, member.data) for member in exports}
    ours = {}
    for member, sampler in samplers.items():
        with pack.only(member.position):
            ours[member] = _draw(sampler)
    plain = _plain_denoiser(plan, denoiser)
    return {
        member: {file.name: _measure(replace(samplers[member], denoiser=plain), file, ours[member]) for file in files}
        for member, files in exports.items()
    }


def _sampler(plan: Plan, denoiser: nn.Module, vae: nn.Module, data: CellData) -> Sampler:
    sampling = SamplingSettings(
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance=1.0,  # the caption alone; the negative prompt is not read
        negative_prompt=_CAPTION,
        size_px=plan.size_px,
    )
    return Sampler(
        base=plan.base,
        denoiser=denoiser,
        vae=vae,
        conditions={_CAPTION: data.captions[0]},
        sampling=sampling,
    )


def _plain_denoiser(plan: Plan, denoiser: nn.Module) -> nn.Module:
    """The one in memory where our layers come out again; PEFT's do not, and a compiled one would be compiled anew."""
    if plan.training.compile or not is_packable(plan.members[0].config.adapter.method):
        return load_denoiser(plan.base, device=plan.accelerator.device, dtype=plan.dtype)
    detach(denoiser)
    return denoiser


def _measure(sampler: Sampler, file: Path, ours: np.ndarray) -> float | None:
    advice = "`delora-sd merge` writes a model that draws what was trained"
    try:
        with _loaded_by_diffusers(sampler, file):
            theirs = _draw(sampler)
    except Exception as error:  # whatever another tool raises: the training is done and kept
        warnings.warn(f"{file}: diffusers cannot load it ({type(error).__name__}: {error}); {advice}", stacklevel=2)
        return None
    difference = float(np.abs(theirs - ours).mean())
    if not difference <= TOLERANCE_LEVELS:
        warnings.warn(
            f"{file} DRAWS SOMETHING ELSE than the trained adapter: images differ by {difference:.1f} of 255 on "
            f"average, rounding stays below {TOLERANCE_LEVELS:g}; {advice}",
            stacklevel=2,
        )
    return round(difference, 4)


@contextmanager
def _loaded_by_diffusers(sampler: Sampler, file: Path) -> Iterator[None]:
    """Inside, the denoiser is as a user of diffusers has it."""
    from diffusers.utils import logging

    pipeline = sampler.base.family.lora_pipeline(sampler.denoiser, sampler.vae)
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would remark that the text encoder has no LoRA
    try:
        pipeline.load_lora_weights(str(file.parent), weight_name=file.name, local_files_only=True, use_safetensors=True)
        yield
    finally:
        pipeline.unload_lora_weights()
        logging.set_verbosity(verbosity)


def _draw(sampler: Sampler) -> np.ndarray:
    """Returns the image as (height, width, 3), 0 to 255."""
    with torch.no_grad():
        (image,) = sample_images(sampler, [_CAPTION], [SEED])
    return np.asarray(image, dtype=np.float32)
