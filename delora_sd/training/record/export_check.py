"""Does another tool draw what we draw? Exported files are read back and compared with what was trained.

By images: diffusers loads each file and draws one image with it; the kohya file is also drawn as ComfyUI loads it, and
`product/` keeps the images. By tensors: our own reader takes each file, and the change of every layer is compared. What
both writer and reader get wrong shows in the images alone.
"""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from delora_sd.adapters.attach import Attached, is_packable
from delora_sd.adapters.exchange.merge.comfyui import patched_by_comfyui
from delora_sd.adapters.exchange.merge.updates import Update, load_updates
from delora_sd.adapters.lowrank.pack import detach
from delora_sd.diffusion.parts import load_denoiser, load_vae
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors
from delora_sd.generation.images import write_image
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

PREVIEW, IN_DIFFUSERS, IN_COMFYUI = "preview.png", "diffusers.png", "comfyui.png"
"""The images in `product/`: the trained adapter's, the diffusers file's, the kohya file's."""

_ADVICE = "`delora-sd merge` writes a model that draws what was trained"


@dataclass(frozen=True, kw_only=True)
class Way:
    """One exported file as one tool loads it."""

    name: str
    """In the manifest."""
    file: Path
    tool: str
    loaded: Callable[[Sampler, Path], AbstractContextManager[None]]
    """Inside, the sampler's denoiser is as a user of the tool has it."""
    image: str | None
    """Its file in `product/`; None: not kept."""


@time_of("export check")
def measure_exports(
    plan: Plan, denoiser: nn.Module, pack: Attached, exports: Mapping[Member, Sequence[Path]]
) -> dict[Member, dict[str, float | None]]:
    """Returns, per member, {file or way: how far it is from the trained adapter}: by images the mean difference in
    steps of 1/255, by tensors a share of the change (`training.export_check`).

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
        _keep(member, PREVIEW, ours[member], plan)
    plain = _plain_denoiser(plan, denoiser)
    found = {}
    for member, files in exports.items():
        if member in ours:
            found[member] = _compare_by_images(plan, member, replace(samplers[member], denoiser=plain), files, ours)
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


def _compare_by_images(
    plan: Plan, member: Member, sampler: Sampler, files: Sequence[Path], ours: Mapping[Member, Image.Image]
) -> dict[str, float | None]:
    found = {}
    for way in _ways(files):
        theirs = _draw_by(sampler, way)
        if theirs is not None:
            _keep(member, way.image, theirs, plan)
        found[way.name] = None if theirs is None else _difference(way, theirs, ours[member])
    return found


def _ways(files: Sequence[Path]) -> Iterator[Way]:
    for file in files:
        is_kohya = file.name.endswith(".kohya.safetensors")
        image = None if is_kohya else IN_DIFFUSERS
        yield Way(name=file.name, file=file, tool="diffusers", loaded=_loaded_by_diffusers, image=image)
        if is_kohya:
            name = f"{file.name} in ComfyUI"
            yield Way(name=name, file=file, tool="ComfyUI", loaded=_loaded_by_comfyui, image=IN_COMFYUI)


def _draw_by(sampler: Sampler, way: Way) -> Image.Image | None:
    try:
        with way.loaded(sampler, way.file):
            return _draw(sampler)
    except Exception as error:  # whatever another tool raises: the training is done and kept
        reason = f"{way.tool} cannot load it ({type(error).__name__}: {error})"
        warnings.warn(f"{way.file}: {reason}; {_ADVICE}", stacklevel=2)
        return None


def _difference(way: Way, theirs: Image.Image, ours: Image.Image) -> float:
    difference = float(np.abs(_levels(theirs) - _levels(ours)).mean())
    if not difference <= TOLERANCE_LEVELS:
        warnings.warn(
            f"{way.file} DRAWS SOMETHING ELSE in {way.tool} than the trained adapter: images differ by "
            f"{difference:.1f} of 255 on average, rounding stays below {TOLERANCE_LEVELS:g}; {_ADVICE}",
            stacklevel=2,
        )
    return round(difference, 4)


def _keep(member: Member, name: str | None, image: Image.Image, plan: Plan) -> None:
    if name is not None:
        record = {"prompt": member.prompts[0], "seed": SEED, "random_weights": plan.base.has_random_weights}
        write_image(member.run.product / name, image, record)


@contextmanager
def _loaded_by_comfyui(sampler: Sampler, file: Path) -> Iterator[None]:
    export = sampler.base.family.export
    with patched_by_comfyui(sampler.denoiser, file, export.kohya_key, export.kohya_part):
        yield


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


def _draw(sampler: Sampler) -> Image.Image:
    with torch.no_grad():
        (image,) = sample_images(sampler, [_CAPTION], [SEED])
    return image


def _levels(image: Image.Image) -> np.ndarray:
    """Returns the image as (height, width, 3), 0 to 255."""
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
