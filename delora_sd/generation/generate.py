"""Images of the subject in new contexts: what is asked for, minus what is there, drawn and listed."""

import warnings
from dataclasses import replace
from pathlib import Path

from delora_sd.adapters.exchange.merge.merging import check_strength, merged_adapters
from delora_sd.adapters.exchange.stored.inputs import find_adapter
from delora_sd.adapters.exchange.stored.provenance import find_run
from delora_sd.config.text import first_control_character
from delora_sd.data.prompts import load_prompts
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import resolve_device, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.files.contents import check_base
from delora_sd.files.run_folder import RunFolder, append_line, check_length
from delora_sd.generation.images import ImageWriter
from delora_sd.generation.model import ModelKeeper
from delora_sd.generation.requests import (
    ImageRequest,
    ImageSet,
    SamplingSettings,
    check_sampling,
    describe_set,
    finished_files,
    plan_requests,
    read_listing,
    write_listing,
)
from delora_sd.generation.sampler import Sampler, default_batch_size, render_images
from delora_sd.generation.sources import Source, find_source, hash_adapters
from delora_sd.progress import ProgressDisplay
from delora_sd.settings import GenerateConfig

MAX_SEED = 2**63 - 1
MAX_COUNT = 100_000
"""Nobody means more images of one prompt; a slip of the keyboard would fill the memory with their names."""


def generate(config: GenerateConfig, keeper: ModelKeeper | None = None) -> Path:
    """Returns the folder of the image set, with every image that was asked for; the same call again resumes.

    Args:
        keeper: Give the same one to many calls, and a base they share is loaded once.

    Raises:
        UserError: settings, prompts, an adapter or a base model that cannot work; a disk that is full.
    """
    check_settings(config)
    source = find_source(config)
    prompts = load_prompts(
        config.prompts, identifier=source.identifier, class_word=source.class_word, is_live=source.is_live
    )
    keeper = keeper or ModelKeeper()
    base = keeper.find(source.model)
    if source.run is not None:
        advice = f"bring it back, or give run={source.run.adapter} to try the adapter on another base"
        check_base(source.run, name=base.name, fingerprint=base.fingerprint, advice=advice)
    _warn_of_other_bases(config, base)
    device = resolve_device()
    dtype = resolve_dtype(source.model.dtype, device)
    sampling = _sampling(config, base.size_px)
    base.family.solver(base, sampling.num_inference_steps, device="cpu")  # refused before anything is written
    image_set = describe_set(
        source.images,
        prompts,
        base=_as_the_run_knows_it(source, base),
        precision=f"{dtype}, {source.model.quantization}",
        sampling=sampling,
        adapters=hash_adapters(source.adapters),
        step=source.step,
        average=source.average,
    )
    seeds = range(config.seed, config.seed + config.images_per_prompt)
    requests = plan_requests(image_set.folder, prompts, seeds)
    with RunFolder(image_set.folder).lock():
        finished = finished_files(image_set)
        if any(request.file.name not in finished for request in requests):
            model = keeper.load(
                base,
                device=device,
                dtype=dtype,
                quantization=source.model.quantization,
                is_compiled=config.compile,
            )
            sampler = model.sampler([prompt.text for prompt in prompts], sampling)
            with merged_adapters(sampler.denoiser, source.adapters):
                _draw(requests, finished, image_set, sampler, config.batch_size or default_batch_size(device))
            write_listing(image_set, read_listing(image_set.listing))
    return image_set.folder


def _draw(
    requests: list[ImageRequest], finished: set[str], image_set: ImageSet, sampler: Sampler, batch_size: int
) -> None:
    """Draws and writes the missing images; an image is listed when it and all of its batch are on disk."""

    def is_missing(request: ImageRequest) -> bool:
        return request.file.name not in finished

    def list_images(records: list[dict]) -> None:
        for record in records:
            append_line(image_set.listing, record)
        progress.advance(len(records))

    num_missing = sum(map(is_missing, requests))
    with (
        ProgressDisplay(image_set.folder.name, total=num_missing, unit="images") as progress,
        ImageWriter(list_images) as writer,
    ):
        render_images(
            requests,
            is_missing,
            sampler=sampler,
            batch_size=batch_size,
            save=lambda batch: writer.write([(r.file, image, image_set.record(r)) for r, image in batch]),
            say=progress.say,
        )


def _as_the_run_knows_it(source: Source, base: Base) -> Base:
    """Returns the base under the name it was trained on: images from before and after it moved stay comparable."""
    trained = source.run.read_manifest().get("base", {}) if source.run else {}
    is_same = trained.get("fingerprint") == base.fingerprint and isinstance(trained.get("id"), str)
    return replace(base, name=trained["id"]) if is_same else base


def _warn_of_other_bases(config: GenerateConfig, base: Base) -> None:
    """Warns of extra adapters whose run was trained on a base of other contents: allowed, but an experiment."""
    for name in config.extra_adapters:
        run = find_run(find_adapter(Path(name)))
        trained = run.read_manifest().get("base", {}) if run else {}
        if trained.get("fingerprint", base.fingerprint) != base.fingerprint:
            warnings.warn(
                f"extra_adapters: {name} was trained on another base ({trained.get('id', 'unknown')}) than "
                f"{base.name}, onto which it is added",
                stacklevel=2,
            )


def _sampling(config: GenerateConfig, size_px: int) -> SamplingSettings:
    return SamplingSettings(
        num_inference_steps=config.num_inference_steps,
        guidance=float(config.guidance),
        negative_prompt=config.negative_prompt,
        size_px=size_px,
    )


def check_settings(config: GenerateConfig) -> None:
    """Raises UserError for numbers that make no image."""
    if config.output_dir is not None:
        check_length(Path(config.output_dir).expanduser(), setting="output_dir")
    for key in ("images_per_prompt", "batch_size"):
        value = getattr(config, key)
        if value is not None and not 1 <= value <= MAX_COUNT:
            raise UserError(f"{key}={value}: expected at least 1 and at most {MAX_COUNT}")
    check_sampling("", num_inference_steps=config.num_inference_steps, guidance=config.guidance)
    if not 0 <= config.seed <= MAX_SEED - config.images_per_prompt:
        raise UserError(f"seed={config.seed}: expected 0 to {MAX_SEED - config.images_per_prompt}")
    if control := first_control_character(config.negative_prompt):
        raise UserError(f"negative_prompt: control character {control!r} is not accepted; remove it")
    for key, strength in {"strength": config.strength, **config.extra_adapters}.items():
        check_strength(key, strength)
