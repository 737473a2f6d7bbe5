"""A whole Stable Diffusion folder with an adapter merged in: for updates that no LoRA can hold."""

import re
import shutil
from pathlib import Path

import torch
from torch import nn

from delora_sd.adapters.exchange.merge.merging import check_strength, merged_adapters
from delora_sd.adapters.exchange.stored.inputs import base_choice, find_adapter, model_of
from delora_sd.adapters.exchange.stored.provenance import check_base_of
from delora_sd.errors import UserError
from delora_sd.files.run_folder import check_length, read_json, write_folder, write_json, write_text
from delora_sd.files.tensors import read_tensors, write_tensors
from delora_sd.settings import MergeConfig

INDEX_FILE = "model_index.json"
_NOT_OURS = ("scheduler", "feature_extractor")
"""Parts of no family that a pipeline has."""
_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}


def merge_checkpoint(config: MergeConfig) -> None:
    """Writes a diffusers folder: the adapter's base with W + strength (W' - W), whole or not at all.

    Raises:
        UserError: no adapter, no output, a strength outside 0..2, or a base without files.
    """
    from rich.console import Console

    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser

    check_strength("strength", config.strength)
    if not (config.run and config.output):
        raise UserError(f"{'output' if config.run else 'run'}: missing; usage: delora-sd merge RUN FOLDER")
    output = Path(config.output).expanduser()
    check_length(output, setting="output")
    if output.exists() and not (output / INDEX_FILE).exists() and (output.is_file() or any(output.iterdir())):
        raise UserError(f"output: {output} exists and holds something else; give a new folder")
    adapter = find_adapter(Path(config.run))
    model = model_of(adapter, base_choice(config.model))
    if model is None:
        raise UserError(f"{adapter} does not say which base it belongs to; name it: model.base=...")
    base = find_base(model)
    if not config.model.base:
        check_base_of(adapter, base)
    if base.folder is None:
        raise UserError(f"{base.name} has random weights and no files; there is nothing to merge into")
    dtype = _DTYPES[config.precision]
    denoiser, family = load_denoiser(base, device="cpu", dtype=torch.float32), base.family
    copied = [part for part in (*family.weight_files, *family.tokenizers, *_NOT_OURS) if part != family.denoiser]
    with merged_adapters(denoiser, {adapter: config.strength}):
        nn.Module.to(denoiser, dtype)  # diffusers' own `to` logs a warning about nothing

        def write(folder: Path) -> None:
            denoiser.save_pretrained(folder / family.denoiser, safe_serialization=True)
            _copy_other_parts(base.folder, folder, dtype, copied)

        write_folder(output, write)
    said = f"{output}: {base.name} with {adapter} at strength {config.strength:g}, {config.precision}"
    Console(markup=False, emoji=False).print(said, soft_wrap=True)


def _copy_other_parts(source: Path, folder: Path, dtype: torch.dtype, parts: list[str]) -> None:
    """Copies what the pipeline needs beside the denoiser, its weights cast; the safety checker stays with the base."""
    index = read_json(source / INDEX_FILE)
    for part in parts:
        if (source / part).is_dir():
            _copy_part(source / part, folder / part, dtype)
        elif part in index:
            index[part] = [None, None]
    if "safety_checker" in index:
        index |= {"safety_checker": [None, None], "requires_safety_checker": False}
    write_json(folder / INDEX_FILE, index)


def _copy_part(source: Path, folder: Path, dtype: torch.dtype) -> None:
    folder.mkdir()
    plain = [file for file in source.glob("[!.]*.safetensors") if not _HALF.search(file.name)]
    for file in plain or source.glob("[!.]*.safetensors"):
        tensors, metadata = read_tensors(file)
        cast = {name: value.to(dtype) if value.is_floating_point() else value for name, value in tensors.items()}
        write_tensors(folder / _HALF.sub("", file.name), cast, metadata)
    for file in source.iterdir():
        if _HALF.search(file.name) and file.suffix == ".json":  # an index of shards
            if not plain:
                write_text(folder / _HALF.sub("", file.name), _HALF.sub("", file.read_text(encoding="utf-8")))
        elif file.suffix in (".json", ".txt", ".jinja") and not file.name.startswith("."):
            shutil.copyfile(file, folder / file.name)


_HALF = re.compile(r"\.fp16(?=[.-])")
"""Marks files of half precision, in names and in an index of shards."""
