"""Which encoders there are, and their weights: found on disk, in the hub's cache or on the hub. No model is built here.

Weights are safetensors only: a pickle can run code when it is read.
"""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from delora_eval.scoring.judges.networks.words import TOKENIZER_FILES
from delora_eval.settings import EncoderConfig
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.contents import hash_file

HASH_DIGITS = 16

VLM = "vlm"
"""The encoder of judges that are asked: whatever model `encoders.vlm` names."""


@dataclass(frozen=True, kw_only=True)
class EncoderSpec:
    """What an encoder is and where its weights are published."""

    id: str
    kind: Literal["timm", "open_clip", "dreamsim", "siglip2_naflex", "vlm", "miniature"]
    architecture: str = ""
    sizes: dict[str, Any] = field(default_factory=dict)
    """What differs from the architecture's own sizes."""
    repository: str = ""
    """none: nobody publishes safetensors; `origin` says how to make them."""
    file: str = ""
    """Name of the weights in the repository; always .safetensors."""
    has_tokenizer: bool = False
    """True: tokenizer.json and tokenizer_config.json belong to the weights."""
    is_gated: bool = False
    """True: the hub asks for an account that accepted the model's licence."""
    origin: str = ""

    @property
    def file_stem(self) -> str:
        return self.id.replace("/", "-")


def _vit(encoder_id: str, architecture: str, **sizes: Any) -> EncoderSpec:
    return EncoderSpec(
        id=encoder_id,
        kind="timm",
        architecture=architecture,
        sizes=sizes,
        repository=f"timm/{architecture}",
        file="model.safetensors",
    )


def _clip(encoder_id: str, architecture: str, repository: str, *, has_tokenizer: bool = False) -> EncoderSpec:
    return EncoderSpec(
        id=encoder_id,
        kind="open_clip",
        architecture=architecture,
        repository=repository,
        file="open_clip_model.safetensors",
        has_tokenizer=has_tokenizer,
    )


ENCODERS = {
    spec.id: spec
    for spec in (
        _vit("dino/vit-s-16", "vit_small_patch16_224.dino"),
        _vit("dino/vit-b-16", "vit_base_patch16_224.dino"),
        _vit("dinov2/vit-b-14", "vit_base_patch14_dinov2.lvd142m", img_size=224),
        _vit("dinov2/vit-l-14", "vit_large_patch14_dinov2.lvd142m", img_size=224),
        _vit("dinov3/vit-b-16", "vit_base_patch16_dinov3.lvd1689m"),
        _vit("dinov3/vit-l-16", "vit_large_patch16_dinov3.lvd1689m"),
        _clip("clip/vit-b-32", "ViT-B-32-quickgelu", "timm/vit_base_patch32_clip_224.openai"),
        _clip("clip/vit-l-14", "ViT-L-14-quickgelu", "timm/vit_large_patch14_clip_224.openai"),
        _clip("siglip2/so400m-14", "ViT-SO400M-14-SigLIP2", "timm/ViT-SO400M-14-SigLIP2", has_tokenizer=True),
        EncoderSpec(
            id="dreamsim/ensemble",
            kind="dreamsim",
            file="dreamsim-ensemble.safetensors",
            origin="published as pickles only; make it once with `python scripts/prepare/convert_dreamsim.py`",
        ),
        EncoderSpec(
            id="siglip2/so400m-16-naflex",
            kind="siglip2_naflex",
            repository="google/siglip2-so400m-patch16-naflex",
            file="model.safetensors",
            has_tokenizer=True,
            is_gated=True,
        ),
        EncoderSpec(id=VLM, kind="vlm"),
        EncoderSpec(id="mini-dino", kind="miniature"),
        EncoderSpec(id="mini-clip", kind="miniature"),
    )
}
"""timm and open_clip publish the authors' own weights as safetensors under these names (PROTOCOL 3.6).
OpenAI's weights need QuickGELU; the names without it give other numbers silently."""


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Where an encoder's numbers come from."""

    spec: EncoderSpec
    file: Path | None
    """none: random weights."""
    hash: str
    """First 16 hex digits of the file's sha256; `random` without a file."""
    tokenizer: Path | None = None
    """Folder of the tokenizer's files, for encoders that need one."""

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
    tokenizer = _find_tokenizer(spec, file) if spec.has_tokenizer else None
    return Weights(spec=spec, file=file, hash=hash_file(file)[:HASH_DIGITS], tokenizer=tokenizer)


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
    if spec.repository:
        offline = config.offline or os.environ.get("HF_HUB_OFFLINE", "") not in ("", "0")
        found, where = _from_hub(spec, offline=offline)
        if found is not None:
            return found
        looked.append(where)
    raise UserError(_missing(spec, looked))


def _missing(spec: EncoderSpec, looked: list[str]) -> str:
    need = f"{spec.file} of {spec.repository}" if spec.repository else f"{spec.file}, {spec.origin}"
    gate = (
        f"the hub gives it only to accounts that accepted its licence: visit https://huggingface.co/{spec.repository}, "
        f"accept, then run `hf auth login` here, or download {', '.join(_needed_files(spec))} there and "
        if spec.is_gated
        else ""
    )
    beside = f", and its {' and '.join(TOKENIZER_FILES)} in {spec.file_stem}/" if spec.has_tokenizer else ""
    return (
        f"no weights for encoder '{spec.id}': need {need}; looked in {'; '.join(looked) or 'no folder'}; "
        f"{gate}put the file on this machine and give "
        f"encoders.weights_dir=FOLDER with {spec.file_stem}.safetensors in it{beside} "
        "(encoders.random_weights=true tries the plumbing without weights)"
    )


def _needed_files(spec: EncoderSpec) -> tuple[str, ...]:
    return (spec.file, *TOKENIZER_FILES) if spec.has_tokenizer else (spec.file,)


def _find_tokenizer(spec: EncoderSpec, file: Path) -> Path:
    """Returns the folder with the tokenizer of these weights: named after the encoder, or the weights' own."""
    folders = (file.parent / spec.file_stem, file.parent)
    for folder in folders:
        if all((folder / name).is_file() for name in TOKENIZER_FILES):
            return folder
    raise UserError(
        f"no tokenizer for encoder '{spec.id}': need {' and '.join(TOKENIZER_FILES)} of {spec.repository}; looked in "
        f"{' and '.join(map(str, folders))}; put them beside {file.name}"
    )


def _named_weights(spec: EncoderSpec, path: Path) -> Path:
    setting = f"encoders.weights[{spec.id}]={path}"
    if path.is_dir():
        candidates = [file for file in _local_names(path, spec) if file.is_file()] or sorted(
            path.glob("[!.]*.safetensors")
        )
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
    names = [f"{spec.file_stem}.safetensors", f"{spec.file_stem}/{spec.file}"]
    names += [f"{spec.repository.rpartition('/')[2]}/{spec.file}"] if spec.repository else []
    return [folder / name for name in (*names, spec.file)]


def _from_hub(spec: EncoderSpec, *, offline: bool) -> tuple[Path | None, str]:
    """Returns (file, "") or (None, where it looked)."""
    from huggingface_hub import constants, hf_hub_download, try_to_load_from_cache
    from huggingface_hub.utils import logging

    names = _needed_files(spec)
    cached = [try_to_load_from_cache(spec.repository, name) for name in names]
    if all(isinstance(path, str) for path in cached):
        return Path(cached[0]), ""
    looked = f"the hub's cache {constants.HF_HUB_CACHE}"
    if offline:
        return None, f"{looked} (offline: the hub was not asked)"
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # it would print every retry; ours is one line
    try:
        files = [Path(hf_hub_download(spec.repository, name)) for name in names]
        return files[0], ""
    except Exception as error:  # the hub's client raises many kinds; all mean "not there"
        return None, f"{looked}; the hub ({type(error).__name__})"
    finally:
        logging.set_verbosity(verbosity)
