"""Which encoders there are, and their weights: found on disk, in the hub's cache or on the hub. No model is built here.

Weights are safetensors only: a pickle can run code when it is read.
"""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from delora_eval.settings import EncoderConfig
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.hashing import hash_file

HASH_DIGITS = 16


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What an encoder is and where its weights are published."""

    id: str
    kind: Literal["timm", "open_clip", "miniature"]
    architecture: str = ""
    repository: str = ""
    file: str = ""
    """Name of the weights in the repository; always .safetensors."""

    @property
    def file_stem(self) -> str:
        return self.id.replace("/", "-")


ENCODERS = {
    spec.id: spec
    for spec in (
        EncoderSpec(
            id="dino/vit-s-16",
            kind="timm",
            architecture="vit_small_patch16_224.dino",
            repository="timm/vit_small_patch16_224.dino",
            file="model.safetensors",
        ),
        EncoderSpec(
            id="clip/vit-b-32",
            kind="open_clip",
            architecture="ViT-B-32-quickgelu",
            repository="timm/vit_base_patch32_clip_224.openai",
            file="open_clip_model.safetensors",
        ),
        EncoderSpec(
            id="clip/vit-l-14",
            kind="open_clip",
            architecture="ViT-L-14-quickgelu",
            repository="timm/vit_large_patch14_clip_224.openai",
            file="open_clip_model.safetensors",
        ),
        EncoderSpec(id="mini-dino", kind="miniature"),
        EncoderSpec(id="mini-clip", kind="miniature"),
    )
}
"""timm and open_clip publish OpenAI's and DINO's own weights as safetensors under these names (PROTOCOL 3.6).
OpenAI's weights need QuickGELU; the names without it give other numbers silently."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where an encoder's numbers come from."""

    spec: EncoderSpec
    file: Path | None
    """none: random weights."""
    hash: str
    """First 16 hex digits of the file's sha256; `random` without a file."""

    @property
    def is_random(self) -> bool:
        return self.file is None


def find_weights(encoder_id: str, config: EncoderConfig) -> Weights:
    """Returns the encoder's weights, found and hashed; no model is built.

    Raises:
        UserError: no weights (says what is needed, where it looked and what to do), or a file that is refused.
    """
    if encoder_id not in ENCODERS:
        raise UserError(f"unknown encoder '{encoder_id}'{nearest_name(encoder_id, tuple(ENCODERS))}")
    spec = ENCODERS[encoder_id]
    if spec.kind == "miniature":
        file = miniature_folder(spec) / "model.safetensors"
        if not file.is_file():
            raise UserError(
                f"the bundled judge '{spec.id}' is not in this installation ({file}); install delora_sd again"
            )
    elif config.random_weights:
        return Weights(spec=spec, file=None, hash="random")
    else:
        file = _find_file(spec, config)
    return Weights(spec=spec, file=file, hash=hash_file(file)[:HASH_DIGITS])


def miniature_folder(spec: EncoderSpec) -> Path:
    """Returns where the maker bundles the judge: weights, config.json and tokenizer."""
    from delora_sd.miniature import JUDGES

    return Path(JUDGES[spec.id])


def _find_file(spec: EncoderSpec, config: EncoderConfig) -> Path:
    """Returns the encoder's .safetensors file: named in the settings, in `weights_dir`, cached, or downloaded."""
    if spec.id in config.weights:
        return _named_weights(spec, Path(config.weights[spec.id]).expanduser())
    looked = []
    if config.weights_dir is not None:
        folder = Path(config.weights_dir).expanduser()
        for path in _local_names(folder, spec):
            if path.is_file():
                return path
        looked.append(f"{folder} ({', '.join(str(path.relative_to(folder)) for path in _local_names(folder, spec))})")
    found, where = _from_hub(spec, offline=config.offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0"))
    if found is not None:
        return found
    raise UserError(
        f"no weights for encoder '{spec.id}': need {spec.file} of {spec.repository}; looked in "
        f"{'; '.join([*looked, where])}; put the file on this machine and give "
        f"encoders.weights_dir=FOLDER with {spec.file_stem}.safetensors in it "
        "(encoders.random_weights=true tries the plumbing without weights)"
    )


def _named_weights(spec: EncoderSpec, path: Path) -> Path:
    setting = f"encoders.weights[{spec.id}]={path}"
    if path.is_dir():
        candidates = [file for file in _local_names(path, spec) if file.is_file()] or sorted(path.glob("*.safetensors"))
        if len(candidates) == 0:
            raise UserError(
                f"{setting}: no .safetensors file in this folder (pickles such as .bin and .pt are refused)"
            )
        return candidates[0]
    if not path.exists():
        raise UserError(f"{setting}: no such file")
    if path.suffix != ".safetensors":
        raise UserError(f"{setting}: expected .safetensors; other files can run code when read and are refused")
    return path


def _local_names(folder: Path, spec: EncoderSpec) -> list[Path]:
    repository_name = spec.repository.rpartition("/")[2]
    return [folder / f"{spec.file_stem}.safetensors", folder / repository_name / spec.file, folder / spec.file]


def _from_hub(spec: EncoderSpec, *, offline: bool) -> tuple[Path | None, str]:
    """Returns (file, "") or (None, where it looked)."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging

    cached = try_to_load_from_cache(spec.repository, spec.file)
    if isinstance(cached, str):
        return Path(cached), ""
    looked = f"the hub's cache {constants.HF_HUB_CACHE}"
    if offline:
        return None, f"{looked} (offline: the hub was not asked)"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would print every retry; ours is one line
    try:
        return Path(hf_hub_download(spec.repository, spec.file)), ""
    except Exception as error:  # the hub's client raises many kinds; all mean "not there"
        return None, f"{looked}; the hub ({type(error).__name__})"
    finally:
        logging.set_verbosity(verbosity)
