"""How a part of a base loads: from its folder, as shapes on device "meta", or with random weights from its config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from delora_sd.diffusion.families.family import Base
from delora_sd.errors import UserError

RANDOM_WEIGHTS_SEED = 0
"""Random weights are the same in every run."""

_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")


def load_diffusers_part(
    model_class: type, base: Base, part: str, *, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    """Returns a frozen model of diffusers."""
    if base.folder is None or torch.device(device).type == "meta":
        config = model_class.load_config(str(base.folder), subfolder=part) if base.folder else base.configs[part]
        return freeze(build(lambda: model_class.from_config(config), device=device, dtype=dtype), device)
    return freeze(_load_weights(model_class, base, part, dtype=dtype), device)


def load_transformers_part(
    model_class: type, config_class: type, base: Base, part: str, *, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    """Returns a frozen model of transformers."""
    if base.folder is None or torch.device(device).type == "meta":
        config = config_class(**base.configs[part])
        return freeze(build(lambda: model_class(config), device=device, dtype=dtype), device)
    return freeze(_load_weights(model_class, base, part, dtype=dtype), device)


def weights_variant(folder: Path, part: str, stem: str) -> str | None:
    """Returns which safetensors of a part to load: None for the plain file, `fp16` when only that exists.

    Raises:
        UserError: no safetensors.
    """
    for variant, names in (
        (None, (f"{stem}.safetensors", f"{stem}.safetensors.index.json")),
        ("fp16", (f"{stem}.fp16.safetensors", f"{stem}.safetensors.index.fp16.json")),
    ):
        if any((folder / part / name).is_file() for name in names):
            return variant
    pickles = sorted(file.name for pattern in _PICKLES for file in (folder / part).glob(pattern))
    if pickles:
        raise UserError(
            f"{folder / part}: only pickled weights ({pickles[0]}), which can run code when opened; "
            "load the model in diffusers yourself and save it with save_pretrained(FOLDER, safe_serialization=True)"
        )
    raise UserError(f"{folder / part}: no weights; expected {stem}.safetensors")


def build(build: Callable[[], nn.Module], *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Returns a freshly initialised model; the caller's random streams are left as they were."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        return nn.Module.to(build(), dtype)  # diffusers' own `to` logs a warning about nothing


def _load_weights(model_class: type, base: Base, part: str, *, dtype: torch.dtype) -> nn.Module:
    """Returns the part with the folder's weights; every one of them must be there, of its shape, and finite."""
    variant = weights_variant(base.folder, part, base.family.weight_files[part])
    model, info = explain(
        base,
        part,
        lambda: model_class.from_pretrained(
            str(base.folder),
            subfolder=part,
            torch_dtype=dtype,
            use_safetensors=True,
            variant=variant,
            output_loading_info=True,
            local_files_only=True,
        ),
    )
    if info["missing_keys"]:
        raise UserError(f"{base.folder / part}: the weights lack '{sorted(info['missing_keys'])[0]}'; fetch them again")
    for name, tensor in model.named_parameters():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{base.folder / part}: '{name}' holds NaN or infinity; the model is broken, use another")
    return model


def explain(base: Base, part: str, load: Callable[[], Any]) -> Any:
    """Runs a loader of another library; what it complains of is a mistake in the model's files."""
    from transformers.utils import logging

    logging.disable_progress_bar()  # one progress display for the human: ours
    try:
        return load()
    except (torch.OutOfMemoryError, MemoryError):
        raise
    except Exception as error:  # each library has its own kinds; tokenizers raises the bare one
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(f"model.base={base.name}: {base.folder / part} cannot be loaded: {reason}") from error


def freeze(model: nn.Module, device: torch.device | str) -> nn.Module:
    return model.to(device).eval().requires_grad_(False)
