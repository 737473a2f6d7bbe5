"""Does another tool draw what we draw? Exported files are read back and compared with what was trained.

By images: diffusers loads each file and draws one image with it. By tensors: our own reader takes each file, and the
change of every layer is compared. What both writer and reader get wrong shows in the images alone.
"""

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import nn

from delora_sd.adapters.attach import Attached, is_packable
from delora_sd.adapters.exchange.merge.updates import Update, load_updates
from delora_sd.adapters.lowrank.pack import detach
from delora_sd.diffusion.parts import load_denoiser, load_vae
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors
from delora_sd.generation.requests import SamplingSettings
from delora_sd.generation.sampler import Sampler, sample_images
from delora_sd.stopwatch import time_of
from delora_sd.training.before.plan import Plan
from delora_sd.training.loop.member import CellData, Member

NUM_INFERENCE_STEPS = 4
"""Enough for a wrong sign, scale or layer to show."""

SEED = 0

TOLERANCE_LEVELS = 2.0
"""Mean difference of two images in steps of 1/255: nobody sees it. Rounding to fp16 makes 0.001 to 0.02."""

TOLERANCE_SHARE = 0.01
"""Of the trained change and a hundredth of the frozen weights together. Rounding to fp16 makes 0.0003 to 0.001."""

_CAPTION = "the subject's caption"

_ADVICE = "`delora-sd merge` writes a model that draws what was trained"


@time_of("export check")
def measure_exports(
    plan: Plan, denoiser: nn.Module, pack: Attached, exports: Mapping[Member, Sequence[Path]]
) -> dict[Member, dict[str, float | None]]:
    """Returns, per member, {file: how far it is from the trained adapter}: by images the mean difference in steps of
    1/255, by tensors a share of the change (`training.export_check`).

    None: it could not be loaded. Warns of that, and of every difference that can be seen. {}: nothing exported, or a
    quantised base, whose rounding would be measured instead. Afterwards the denoiser is without our layers.
    """
    if not any(exports.values()) or plan.model.quantization != "none":
        return {member: {} for member in exports}
    drawn = [member for member in exports if member.config.training.export_check == "images" and exports[member]]
    vae = load_vae(plan.base, device=plan.accelerator.device, dtype=plan.dtype) if drawn else None
    samplers = {member: _sampler(plan, denoiser, vae, member.data) for member in drawn}
    ours = {}
    for member, sampler in samplers.items():
        with pack.only(member.position):
            ours[member] = _draw(sampler)
    plain = _plain_denoiser(plan, denoiser)
    found = {}
    for member, files in exports.items():
        if member in ours:
            sampler = replace(samplers[member], denoiser=plain)
            found[member] = {file.name: _compare_images(sampler, file, ours[member]) for file in files}
        else:
            trained = load_updates(member.run.adapter, plain) if files else {}
            found[member] = {file.name: _compare_tensors(plain, file, trained) for file in files}
    return found


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


def _compare_images(sampler: Sampler, file: Path, ours: np.ndarray) -> float | None:
    try:
        with _loaded_by_diffusers(sampler, file):
            theirs = _draw(sampler)
    except Exception as error:  # whatever another tool raises: the training is done and kept
        warnings.warn(f"{file}: diffusers cannot load it ({type(error).__name__}: {error}); {_ADVICE}", stacklevel=2)
        return None
    difference = float(np.abs(theirs - ours).mean())
    if not difference <= TOLERANCE_LEVELS:
        warnings.warn(
            f"{file} DRAWS SOMETHING ELSE than the trained adapter: images differ by {difference:.1f} of 255 on "
            f"average, rounding stays below {TOLERANCE_LEVELS:g}; {_ADVICE}",
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


def _compare_tensors(denoiser: nn.Module, file: Path, trained: Mapping[str, Update]) -> float | None:
    try:
        exported, is_closest = load_updates(file, denoiser), "delora.svd_rank" in read_tensors(file)[1]
    except UserError as error:  # the training is done and kept
        warnings.warn(f"{error}; {_ADVICE}", stacklevel=2)
        return None
    difference = _share_missed(denoiser, trained, exported, is_closest=is_closest)
    if not difference <= TOLERANCE_SHARE:
        warnings.warn(
            f"{file} HOLDS SOMETHING ELSE than the trained adapter: it misses {difference:.3f} of the change, rounding "
            f"stays below {TOLERANCE_SHARE:g}; {_ADVICE}",
            stacklevel=2,
        )
    return round(difference, 6)


@torch.no_grad()
def _share_missed(
    denoiser: nn.Module, trained: Mapping[str, Update], exported: Mapping[str, Update], *, is_closest: bool
) -> float:
    """Returns ||exported - trained|| over all layers, as a share of ||trained|| and a hundredth of ||W|| together.

    The closest update of a lower rank leaves out what is orthogonal to it: there only the part of the difference that
    lies along the export counts, which a wrong sign, size or layer makes.
    """
    missed = along = length = change = frozen = 0.0
    for name in sorted(trained.keys() | exported.keys()):
        weight = denoiser.get_parameter(name).detach().float()
        ours, theirs = (
            updates[name](weight) if name in updates else torch.zeros_like(weight) for updates in (trained, exported)
        )
        missed += (theirs - ours).square().sum().item()
        along += ((theirs - ours) * theirs).sum().item()
        length += theirs.square().sum().item()
        change += ours.square().sum().item()
        frozen += weight.square().sum().item()
    if is_closest:
        missed = along**2 / max(length, 1e-30)
    return math.sqrt(missed) / max(math.sqrt(change) + 0.01 * math.sqrt(frozen), 1e-30)
