"""The door: what can be refused from the settings alone, and from what a run folder says it was begun with."""

import math
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from delora_sd.adapters.attach import check_known
from delora_sd.config.deciding import is_deciding, read_run_settings, setting_apart
from delora_sd.config.load import flatten
from delora_sd.data.captions import BESIDE
from delora_sd.data.prompts import class_prompt, render_prompt
from delora_sd.data.subjects import MINIATURE
from delora_sd.diffusion.bases import place_of_base
from delora_sd.diffusion.families.table import FAMILIES
from delora_sd.diffusion.folder_checks import check_side
from delora_sd.errors import UserError
from delora_sd.files.contents import absolute_place
from delora_sd.files.run_folder import RUN_FOLDER_ROOM, RunFolder, check_length
from delora_sd.generation.requests import check_sampling
from delora_sd.settings import AdapterConfig, TrainConfig
from delora_sd.training.loop.angular import check_angular
from delora_sd.training.loop.ema import check_ema

MAX_COUNT = 1_000_000
"""Nobody means more photos, images or denoising steps than this; a slip of the keyboard would fill the memory."""


PLACES = {
    "data.photos": "photos",
    "data.dataset": "photos",
    "data.captions": "captions",
    "model.base": "base",
    "adapter.peft_config": "peft_config",
}
"""{setting that names a place: what the manifest knows of its contents}."""


def admit(config: TrainConfig) -> tuple[RunFolder, TrainConfig]:
    """Returns the run's folder and its settings, with every path absolute.

    Raises:
        UserError: settings no run could satisfy, or other ones than the folder was begun with.
    """
    config = resolve_places(config)
    check_config(config)
    run = run_folder(config)
    check_resume(run, config)
    return run, config


def run_folder(config: TrainConfig) -> RunFolder:
    return RunFolder(Path(config.output_dir).expanduser())


def resolve_places(config: TrainConfig) -> TrainConfig:
    """Returns the config with every path absolute, so that the run means the same from any folder; names stay names."""
    data, peft_config = config.data, config.adapter.peft_config
    if data.photos is not None:
        data = replace(data, photos=absolute_place(data.photos))
    elif data.dataset != MINIATURE:
        data = replace(data, dataset=absolute_place(data.dataset))
    if data.captions not in (None, BESIDE):
        data = replace(data, captions=absolute_place(data.captions))
    if peft_config is not None:
        peft_config = absolute_place(peft_config)
    return replace(
        config,
        data=data,
        model=replace(config.model, base=place_of_base(config.model.base)),
        adapter=replace(config.adapter, peft_config=peft_config),
    )


def is_compared_by_contents(key: str, value: Any, manifest: dict[str, Any]) -> bool:
    """True for a setting that names a place whose contents the manifest knows: it may have moved."""
    return isinstance(value, str) and os.path.isabs(value) and bool(manifest.get(PLACES.get(key, "")))


def check_config(config: TrainConfig) -> None:
    """Raises UserError for settings no run could satisfy."""
    if not config.output_dir:
        raise UserError("output_dir: missing; give a run folder, such as output_dir=runs/dog")
    check_length(Path(config.output_dir).expanduser(), setting="output_dir", room=RUN_FOLDER_ROOM)
    check_known(config.adapter)
    if config.optimizer.angular:
        check_angular(config.adapter)
    check_ema(config.training.ema)
    _check_counts(config)
    optimizer, training = config.optimizer, config.training
    for key, value in {
        "optimizer.lr": 0.0 if optimizer.lr is None else optimizer.lr,
        "optimizer.boundary_lr": optimizer.boundary_lr,
        "optimizer.magnitude_lr": 0.0 if optimizer.magnitude_lr is None else optimizer.magnitude_lr,
        "optimizer.weight_decay": optimizer.weight_decay,
        "optimizer.clip_norm": optimizer.clip_norm,
        "optimizer.warmup_steps": optimizer.warmup_steps,
        "training.prior_weight": training.prior_weight,
        "training.keep_checkpoints": training.keep_checkpoints,
        "preview.every": config.preview.every,
    }.items():
        if not (value >= 0 and math.isfinite(value)):
            raise UserError(f"{key}: {value}; expected 0 or a positive number")
    if not 0 <= training.outside_weight <= 1:
        raise UserError(f"training.outside_weight: {training.outside_weight}; expected 0 (only the subject) to 1 (all)")
    if config.data.buckets and training.outside_weight < 1:
        raise UserError("data.buckets=true: masks (training.outside_weight below 1) are of squares; use one of the two")
    if len(optimizer.betas) != 2 or not all(0 <= beta < 1 for beta in optimizer.betas):
        raise UserError(f"optimizer.betas: {optimizer.betas}; expected two numbers in [0, 1)")
    if config.model.size_px is not None:
        check_side(f"model.size_px={config.model.size_px}", config.model.size_px, factor=8, smallest=8)


def _check_counts(config: TrainConfig) -> None:
    training, preview = config.training, config.preview
    for key, value, highest in (
        ("training.num_steps", training.num_steps, math.inf),
        ("training.batch_size", training.batch_size, MAX_COUNT),
        ("training.gradient_accumulation", training.gradient_accumulation, MAX_COUNT),
        ("training.checkpoint_every", training.checkpoint_every, math.inf),
        ("training.log_every", training.log_every, math.inf),
        ("training.num_class_images", training.num_class_images, MAX_COUNT),
    ):
        if value < 1:
            raise UserError(f"{key}: {value}; expected a whole number of at least 1")
        if value > highest:
            raise UserError(f"{key}: {value}; expected at most {highest}")
    check_sampling("preview.", num_inference_steps=preview.num_inference_steps, guidance=preview.guidance)


def check_templates(config: TrainConfig, class_word: str) -> None:
    """Raises UserError for class captions and preview prompts with a missing or unknown placeholder."""
    if config.training.prior_weight:
        class_prompt(config.data.class_template, class_word=class_word)
    for prompt in config.preview.prompts:
        render_prompt(prompt, identifier=config.data.identifier, class_word=class_word)


def check_pack(configs: list[TrainConfig]) -> None:
    """Raises UserError when runs asked to train together cannot, or share a folder."""
    folders = [config.output_dir for config in configs]
    if len(set(folders)) < len(folders):
        raise UserError(f"output_dir: two runs of a pack would write {max(folders, key=folders.count)}")
    for other in configs[1:]:
        field = setting_apart(configs[0], other)
        if field:
            ours, theirs = flatten(configs[0])[field], flatten(other)[field]
            raise UserError(f"{field}: {ours} and {theirs} cannot share a pack; train them separately")


def check_resume(run: RunFolder, config: TrainConfig) -> None:
    """Raises UserError when the folder holds a run of other settings or of another version; longer training is fine."""
    run.check_version()
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"output_dir {run.path} is a file; give a folder")
    if not run.config.exists():
        return
    before, now = (flatten(resolve_places(each)) for each in (read_run_settings(run.config), config))
    manifest = run.read_manifest()
    changed = [
        key
        for key, value in now.items()
        if before[key] != value and not (_is_free(key, before, now) or is_compared_by_contents(key, value, manifest))
    ]
    if changed:
        key = changed[0]
        raise UserError(
            f"{run.path} was begun with {key}={before[key]}, now it is {now[key]}"
            + (f" (and {len(changed) - 1} more differ)" if len(changed) > 1 else "")
            + "; use another output_dir, or the settings in its config.yaml"
        )


def _is_free(key: str, before: dict, now: dict) -> bool:
    if key == "training.num_steps":
        return now[key] > before[key] and now["optimizer.schedule"] == "constant"
    if key == "adapter.target_modules":  # the default is what the base's family calls its own: written down when known
        is_default = now[key] == AdapterConfig().target_modules
        return is_default and before[key] in [family.default_layers for family in FAMILIES.values()]
    return not is_deciding(key)
