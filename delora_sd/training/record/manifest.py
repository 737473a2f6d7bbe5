"""What a run was made of: versions, device, seeds, hashes. Enough to know why two runs differ."""

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from delora_sd import __version__
from delora_sd.data.buckets import Shape, shape_of_photo
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.families.family import Base
from delora_sd.files.contents import hash_file, hash_file_once
from delora_sd.files.run_folder import FORMAT_VERSION
from delora_sd.files.versions import package_version
from delora_sd.settings import TrainConfig

PACKAGES = ("torch", "torchvision", "diffusers", "transformers", "accelerate", "peft", "safetensors")


def describe_run(
    config: TrainConfig,
    subject: Subject,
    prompts: tuple[str, ...],
    masks: tuple[Path, ...],
    base: Base,
    *,
    shapes: Sequence[Shape],
    trainable_parameters: int,
    before: dict[str, Any],
) -> dict[str, Any]:
    """Returns the manifest of a run that begins or goes on; the recipe adds what is known at its end.

    Args:
        prompts: Of the subject's photos, one each or one for all.
        masks: Of the subject's photos, in their order, or ().
        shapes: That photos can be cut to; () for squares.
        before: The manifest of the call that began it, {} in the first; its photos were compared and stay as they are.
    """
    peft_config = config.adapter.peft_config
    return (
        describe_making(config, base)
        | {
            "subject": {"name": subject.name, "class_word": subject.class_word, "is_live": subject.is_live},
            "photos": _hash_photos(subject.photos),
            "shapes": {photo.name: list(shape_of_photo(photo, shapes)) for photo in subject.photos} if shapes else {},
            "held_out": _hash_photos(subject.held_out),
            "captions": dict(zip((photo.name for photo in subject.photos), prompts, strict=True))
            if config.data.captions
            else {},
            "masks": {
                photo.name: hash_file_once(mask) for photo, mask in zip(subject.photos, masks, strict=bool(masks))
            },
            "peft_config": hash_file(Path(peft_config)) if peft_config else None,
            "trainable_parameters": trainable_parameters,
        }
        | {
            key: before[key]
            for key in ("photos", "held_out", "masks", "captions")
            if before.get("photos") and key in before
        }
    )


def describe_making(config: TrainConfig, base: Base) -> dict[str, Any]:
    """Returns what every training writes down: versions, device, seed and base."""
    return {
        "format": FORMAT_VERSION,
        "delora_sd": __version__,
        "git": _git_commit(),
        "versions": {"python": platform.python_version()} | {name: package_version(name) for name in PACKAGES},
        "device": device_name(),
        "seed": config.seed,
        "base": {
            "id": config.model.base,
            "fingerprint": base.fingerprint,
            "random_weights": base.has_random_weights,
            "size_px": base.size_px,
            "prediction_type": base.prediction_type,
            "family": base.family.name,
        },
    }


def _hash_photos(photos: tuple[Path, ...]) -> dict[str, str]:
    return {photo.name: hash_file_once(photo) for photo in photos}


def device_name() -> str:
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def _git_commit() -> str | None:
    """The commit of the source this runs from; None for an installed package."""
    try:
        answer = subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=Path(__file__).parent, capture_output=True, text=True, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout.strip() if answer.returncode == 0 else None
