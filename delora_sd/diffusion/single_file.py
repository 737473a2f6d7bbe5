"""A checkpoint in one .safetensors file becomes a diffusers folder, once, in the cache. Nothing is fetched.

diffusers converts the weights; the configs are the family's own, and CLIP's words come with open_clip.
"""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from delora_sd.diffusion.cache import cache_folder
from delora_sd.diffusion.families.family import Checkpoint, Configs, Family
from delora_sd.diffusion.families.table import FAMILIES, read_architecture, titles
from delora_sd.errors import UserError
from delora_sd.files.atomic import write_folder
from delora_sd.files.contents import hash_file_once
from delora_sd.files.tensors import refuse_pickle

_DTYPES = {"F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32}


def folder_of_checkpoint(file: Path) -> tuple[Path, str]:
    """Returns (the diffusers folder that the file is converted into, the file's SHA-256).

    Raises:
        UserError: a pickle, no whole checkpoint, or one of no family that is converted.
    """
    refuse_pickle(file)
    checkpoint, dtype = _read_header(file)
    family, configs = _recognise(file, checkpoint)
    digest = hash_file_once(file)
    folder = cache_folder() / "bases" / f"{file.stem[:40]}-{digest[:16]}"
    if not (folder / "model_index.json").is_file():
        write_folder(folder, lambda path: convert(file, path, family=family, configs=configs, dtype=dtype))
    return folder, digest


def convert(file: Path, folder: Path, *, family: Family, configs: Configs, dtype: torch.dtype) -> None:
    """Writes the checkpoint as a diffusers folder, in its own precision."""
    import diffusers

    write_configs(folder, family, configs)
    try:
        pipeline = getattr(diffusers, family.pipeline).from_single_file(
            str(file), config=str(folder), local_files_only=True, torch_dtype=dtype
        )
    except (torch.OutOfMemoryError, MemoryError, UserError):
        raise
    except Exception as error:  # diffusers has its own kinds, and passes on torch's
        reason = str(error).strip().split("\n")[0][:300]
        raise UserError(f"model.base={file}: diffusers cannot convert this checkpoint: {reason}") from error
    pipeline.save_pretrained(folder, safe_serialization=True)


def write_configs(folder: Path, family: Family, configs: Configs) -> None:
    """Writes a folder of the family without weights: what diffusers would fetch from the hub."""
    assert family.checkpoint is not None
    index = family.checkpoint.index
    _write(folder / "model_index.json", {"_class_name": family.pipeline, **index})
    for part, config in configs.items():
        name = "scheduler_config.json" if part == "scheduler" else "config.json"
        _write(folder / part / name, {"_class_name": index[part][1]} | config)
    for part in family.tokenizers:
        family.checkpoint.write_tokenizer(folder / part)


def _write(file: Path, values: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(values, indent=2), encoding="utf-8")


def _read_header(file: Path) -> tuple[Checkpoint, torch.dtype]:
    """Returns the names and shapes in the file and its metadata, and the precision of most of its weights."""
    try:
        with safe_open(file, framework="pt") as opened:
            slices = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 (not a dict)
            shapes = {name: tuple(part.get_shape()) for name, part in slices.items()}
            kinds = [part.get_dtype() for name, part in slices.items() if len(shapes[name]) > 1]
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"model.base={file}: not a whole safetensors file ({error}); get it again") from None
    commonest = max(set(kinds), key=kinds.count, default="F32")
    return Checkpoint(shapes=shapes, metadata=metadata), _DTYPES.get(commonest, torch.float32)


def _recognise(file: Path, checkpoint: Checkpoint) -> tuple[Family, Configs]:
    """Returns the file's family and the configs of its parts."""
    source = f"model.base={file}"
    for family in FAMILIES.values():
        if family.checkpoint is None:
            continue
        found = family.checkpoint.recognise(source, checkpoint)
        if found is not None:
            configs = read_architecture(found.architecture)
            return family, {part: config | found.changes.get(part, {}) for part, config in configs.items()}
    raise UserError(
        f"{source}: a single file, but no whole checkpoint of a family that is converted (UNet, VAE and text encoders "
        f"in one file, as Stability and kohya write them); give a diffusers folder. Families known: {titles()}"
    )
