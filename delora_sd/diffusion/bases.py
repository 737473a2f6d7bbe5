"""Which base to build on: its folder, its family, its facts, and what we cannot use. Loads no weights."""

import hashlib
import json
import os
import re
import warnings
from pathlib import Path
from typing import Any

from delora_sd.config.text import read_json_text
from delora_sd.diffusion.families.family import Base, Configs, Family
from delora_sd.diffusion.families.table import (
    FAMILIES,
    architectures,
    family_of,
    family_of_architecture,
    read_architecture,
    titles,
)
from delora_sd.diffusion.folder_checks import check_config, check_part, check_side
from delora_sd.diffusion.loading import weights_variant
from delora_sd.diffusion.single_file import folder_of_checkpoint
from delora_sd.errors import UserError
from delora_sd.files.contents import absolute_place, hash_file
from delora_sd.settings import ModelConfig

MINIATURE = "miniature"
SD15_ARCHITECTURE = "sd15-architecture"

MODEL_INDEX = "model_index"

_TEXTS = ("json", "txt", "jinja")
"""What a tokenizer is made of."""
_SMALL_FILES = ("model_index.json", "scheduler/*.json", "*/config.json", *(f"tokenizer*/*.{kind}" for kind in _TEXTS))
"""Of any family, as the hub is asked for them."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def find_base(model: ModelConfig) -> Base:
    """Returns the base the settings name, downloading it when it is a hub id that is not cached yet.

    Raises:
        UserError: not to be had, of no family we know, not in diffusers layout, or pickled weights only.
    """
    if family := family_of_architecture(model.base):
        configs = read_architecture(model.base)
        return _make_base(model, family, None, configs, fingerprint=_hash_text(json.dumps(configs)))
    file = Path(model.base).expanduser()
    folder, digest = folder_of_checkpoint(file) if file.is_file() else (_find_folder(model), None)
    family = _find_family(model.base, folder)
    _check_parts(model.base, folder, family)
    configs = {part: _read_config(folder, part) for part in (*family.weight_files, "scheduler")} | _read_index(folder)
    _check_classes(folder, family, configs)
    return _make_base(model, family, folder, configs, fingerprint=digest or _fingerprint(folder, family))


def place_of_base(base: str) -> str:
    """Returns a local `model.base` as an absolute path; the names of bundled bases and hub ids stay."""
    is_local = base not in (MINIATURE, *architectures()) and os.path.exists(os.path.expanduser(base))
    return absolute_place(base) if is_local else base


def _make_base(model: ModelConfig, family: Family, folder: Path | None, configs: Configs, *, fingerprint: str) -> Base:
    source = f"model.base={model.base}"
    family.refuse(source, configs)
    if model.text_layers is not None:
        configs = _with_text_layers(model, family, configs)
        fingerprint = _hash_text(f"{fingerprint} {list(model.text_layers)}")  # it draws other images
    facts = family.read_facts(source, configs)
    size_px = facts.own_px if model.size_px is None else model.size_px
    asked = f"{source}: {size_px} px" if model.size_px is None else f"model.size_px={model.size_px}"
    check_side(asked, size_px, factor=facts.latent_factor, smallest=facts.smallest_px)
    if facts.advised_px is not None and size_px < facts.advised_px:
        warnings.warn(
            f"{asked}: {family.title} draws poorly below {facts.advised_px} px (it was trained at {facts.own_px})",
            stacklevel=3,
        )
    return Base(
        name=model.base,
        folder=folder,
        family=family,
        configs=configs,
        size_px=size_px,
        latent_channels=facts.latent_channels,
        latent_factor=facts.latent_factor,
        smallest_px=facts.smallest_px,
        num_text_tokens=facts.num_text_tokens,
        schedule=facts.schedule,
        fingerprint=fingerprint,
        has_random_weights=folder is None or _is_marked_random(folder),
        version=facts.version,
        is_distilled=facts.is_distilled,
    )


def _with_text_layers(model: ModelConfig, family: Family, configs: Configs) -> Configs:
    if family.with_text_layers is None:
        raise UserError(f"model.text_layers: {family.title} has no choice of them; leave it out")
    return family.with_text_layers(configs, model.text_layers)


def _find_folder(model: ModelConfig) -> Path:
    if model.base == MINIATURE:
        from delora_sd import miniature

        return miniature.BASE_FOLDER
    path = Path(model.base).expanduser()
    if path.is_dir():
        return path
    if not _HUB_ID.fullmatch(model.base):
        raise UserError(
            f"model.base={model.base}: no such folder, and not a hub id (owner/name); "
            f"accepted: `{MINIATURE}`, a diffusers folder, a .safetensors checkpoint, a hub id"
        )
    return _download(model)


def _download(model: ModelConfig) -> Path:
    """Returns the hub snapshot's folder; fetches only configs, tokenizers and safetensors: first the small files, which
    say the family, then the weights of its parts."""
    from huggingface_hub import constants, snapshot_download

    def fetch(patterns: list[str]) -> Path:
        return Path(
            snapshot_download(
                model.base, revision=model.revision, allow_patterns=patterns, local_files_only=model.offline
            )
        )

    try:
        folder = fetch(list(_SMALL_FILES))
        family = _find_family(model.base, folder)
        parts = family.weight_files.items()
        for variant in ("", ".fp16"):
            tails = _tails(variant)
            folder = fetch([*_SMALL_FILES, *(f"{part}/{stem}{tail}" for part, stem in parts for tail in tails)])
            if any(folder.glob(f"{family.denoiser}/*.safetensors")):
                break
    except UserError:
        raise
    except Exception as error:  # the hub client raises its own, the HTTP library's and the system's
        reason = "model.offline=true" if model.offline else str(error).strip().split("\n")[0]
        raise UserError(
            f"model.base={model.base}: no folder of that name, not in the cache {constants.HF_HUB_CACHE}, and not "
            f"fetched ({reason}); go online once, or use model.base=FOLDER or model.base={MINIATURE}"
        ) from None
    return folder


def _tails(variant: str) -> tuple[str, ...]:
    return f"{variant}.safetensors", f"{variant}-0*.safetensors", f".safetensors.index{variant}.json"


def _find_family(name: str, folder: Path) -> Family:
    """Returns the family of the model in the folder, told by its denoiser's config and the folder's own.

    Raises:
        UserError: no denoiser in it, one of a family we do not know, or a member of a family that cannot be used.
    """
    if not folder.is_dir():
        raise UserError(f"model.base={name}: its folder {folder} is missing; install delora_sd again")
    denoisers = dict.fromkeys(family.denoiser for family in FAMILIES.values())
    present = {part: _read_config(folder, part) for part in denoisers if (folder / part).is_dir()}
    classes = [config.get("_class_name") for config in present.values()]
    configs = present | _read_index(folder)
    said = configs.get(MODEL_INDEX, {}).get("_class_name")
    if not classes and said in (None, *(family.pipeline for family in FAMILIES.values())):
        raise UserError(_missing_part(name, folder, next(iter(denoisers))))
    family = family_of(configs)
    if family is None:
        found = str(said or classes[0])[:80]
        raise UserError(f"model.base={name}: its family is not known ({found}); those known: {titles()}")
    family.refuse(f"model.base={name}", configs)
    return family


def _check_parts(name: str, folder: Path, family: Family) -> None:
    """Raises UserError unless the folder holds every part of the family with safe weights."""
    for part in (*family.weight_files, *family.tokenizers, "scheduler"):
        if not (folder / part).is_dir():
            raise UserError(_missing_part(name, folder, part))
    for part in family.tokenizers:
        _check_tokenizer(folder / part)
    for part, stem in family.weight_files.items():
        weights_variant(folder, part, stem)
        check_part(folder, part, stem)


def _check_tokenizer(folder: Path) -> None:
    """Raises UserError for a tokenizer without words: transformers would make one that knows none."""
    found = {path.name for path in folder.iterdir()}
    if "tokenizer.json" not in found and not {"vocab.json", "merges.txt"} <= found:
        listed = ", ".join(sorted(found)[:8]) or "nothing"
        raise UserError(
            f"{folder}: no words of a tokenizer; expected tokenizer.json, or vocab.json and merges.txt, found {listed}"
        )


def _check_classes(folder: Path, family: Family, configs: Configs) -> None:
    """Raises UserError for a part that says to be of another class: newer than this diffusers, or of another family."""
    for part, expected in family.classes.items():
        said = configs[part].get("_class_name", expected)
        if said != expected:
            raise UserError(
                f"{folder / part}: its class is {str(said)[:80]}, {family.title} has {expected}; use the model it was "
                "made from, or, if a newer diffusers renamed it, a newer delora_sd"
            )


def _missing_part(name: str, folder: Path, part: str) -> str:
    found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
    return f"model.base={name}: no {part}/ in {folder} (found: {found}); expected a diffusers folder"


def _read_index(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the folder's own config under its name; {} where there is none."""
    file = folder / f"{MODEL_INDEX}.json"
    return {MODEL_INDEX: _read_json(file)} if file.is_file() else {}


def _is_marked_random(folder: Path) -> bool:
    """Test models say so themselves: `"_random_weights": true` in model_index.json."""
    index = folder / "model_index.json"
    return index.is_file() and bool(_read_json(index).get("_random_weights"))


def _read_config(folder: Path, part: str) -> dict[str, Any]:
    file = folder / part / ("scheduler_config.json" if part == "scheduler" else "config.json")
    config = _read_json(file)
    check_config(file, part, config)
    return config


def _read_json(file: Path) -> dict[str, Any]:
    try:
        config = read_json_text(file)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: not a readable config ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{file}: expected a JSON object, found {type(config).__name__}")
    return config


def _fingerprint(folder: Path, family: Family) -> str:
    """Returns one SHA-256 over names and contents of the configs, the tokenizers and the weights that get loaded."""
    small = (
        "scheduler/*.json",
        "*/config.json",
        *(f"{part}/*.{kind}" for part in family.tokenizers for kind in _TEXTS),
    )
    files = {file for pattern in small for file in folder.glob(pattern)}
    for part, stem in family.weight_files.items():
        infix = ".fp16" if weights_variant(folder, part, stem) else ""
        shards = (".fp16-0*", ".*.index.fp16.json") if infix else ()
        for tail in (f"{infix}.safetensors*", "-0*.safetensors", *shards):
            files |= set((folder / part).glob(stem + tail))
    files = {file for file in files if not file.name.startswith(".")}  # what macOS leaves beside each file
    lines = [f"{file.relative_to(folder).as_posix()} {_hash_weights(file)}" for file in sorted(files)]
    return _hash_text("\n".join(lines))


def _hash_weights(file: Path) -> str:
    """Returns the file's SHA-256. The hub's cache names weight files by theirs, which saves reading gigabytes."""
    if file.is_symlink() and re.fullmatch(r"[0-9a-f]{64}", (name := file.resolve().name)):
        return name
    return hash_file(file)


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", errors="surrogateescape")).hexdigest()  # a file name may be no text
