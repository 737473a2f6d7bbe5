"""Which Stable Diffusion to build on: its folder, its facts, and what we cannot use. Loads no weights."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from delora_sd.config.load import read_yaml
from delora_sd.config.text import read_json_text
from delora_sd.diffusion.folder_checks import check_config, check_part, check_side
from delora_sd.diffusion.noise_schedule import NoiseSchedule, read_noise_schedule
from delora_sd.errors import UserError
from delora_sd.files.contents import absolute_place, hash_file
from delora_sd.settings import ModelConfig

MINIATURE = "miniature"
SD15_ARCHITECTURE = "sd15-architecture"

WEIGHT_FILES = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
"""Stem of each part's weight file in a diffusers folder."""

_SMALL_FILES = ("model_index.json", "scheduler/*.json", "tokenizer/*.json", "tokenizer/*.txt", "*/config.json")
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_PICKLES = ("*.bin", "*.ckpt", "*.pt", "*.pth")
_CONVERT = (
    'python -c "from diffusers import StableDiffusionPipeline as P; '
    "P.from_single_file('FILE').save_pretrained('FOLDER')\""
)


@dataclass(frozen=True, kw_only=True)
class Base:
    """The frozen model an adapter is trained on."""

    name: str
    """As given in `model.base`."""
    folder: Path | None
    """Diffusers folder; none: random weights, built from configs."""
    size_px: int
    """Side of training and generated images: `model.size_px`, else what the base was trained at."""
    latent_side: int
    """Side of their latents."""
    num_text_tokens: int
    """Longest prompt the text encoder reads, start and end marks included."""
    schedule: NoiseSchedule
    """The noise it was trained under."""
    fingerprint: str
    """SHA-256 over every file that decides what the model computes."""
    has_random_weights: bool
    """Its images mean nothing, and everything made with it says so."""
    version: Literal["sd1", "sd2"]

    @property
    def prediction_type(self) -> str:
        """What the UNet predicts: epsilon or v_prediction."""
        return self.schedule.prediction_type


def find_base(model: ModelConfig) -> Base:
    """Returns the base the settings name, downloading it when it is a hub id that is not cached yet.

    Raises:
        UserError: not to be had, not a Stable Diffusion 1.x/2.x in diffusers layout, or pickled weights only.
    """
    if model.base == SD15_ARCHITECTURE:
        return _make_base(model, None, sd15_configs(), fingerprint=_hash_text(json.dumps(sd15_configs())))
    folder = _find_folder(model)
    _check_parts(model.base, folder)
    configs = {part: _read_config(folder, part) for part in (*WEIGHT_FILES, "scheduler")}
    return _make_base(model, folder, configs, fingerprint=_fingerprint(folder))


def place_of_base(base: str) -> str:
    """Returns a local `model.base` as an absolute path; the names of bundled bases and hub ids stay."""
    is_local = base not in (MINIATURE, SD15_ARCHITECTURE) and os.path.exists(os.path.expanduser(base))
    return absolute_place(base) if is_local else base


def weights_variant(folder: Path, part: str) -> str | None:
    """Returns which safetensors of a part to load: None for the plain file, `fp16` when only that exists.

    Raises:
        UserError: no safetensors.
    """
    stem = WEIGHT_FILES[part]
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


@cache
def sd15_configs() -> dict[str, dict[str, Any]]:
    """Returns the configs of Stable Diffusion 1.5's parts."""
    return read_yaml(Path(__file__).with_name("sd15_architecture.yaml"))


def _make_base(model: ModelConfig, folder: Path | None, configs: dict[str, dict], *, fingerprint: str) -> Base:
    unet, vae, scheduler = configs["unet"], configs["vae"], configs["scheduler"]
    _check_is_sd1_or_sd2(model.base, unet, vae)
    is_sd2 = unet.get("use_linear_projection") or unet["cross_attention_dim"] == 1024
    size_px = _size_px(model, unet, vae)
    return Base(
        name=model.base,
        folder=folder,
        size_px=size_px,
        latent_side=size_px // _vae_factor(vae),
        num_text_tokens=_num_text_tokens(model.base, configs["text_encoder"]),
        schedule=read_noise_schedule(scheduler, source=f"model.base={model.base}"),
        fingerprint=fingerprint,
        has_random_weights=folder is None or _is_marked_random(folder),
        version="sd2" if is_sd2 else "sd1",
    )


def _find_folder(model: ModelConfig) -> Path:
    if model.base == MINIATURE:
        from delora_sd import miniature

        return miniature.BASE_FOLDER
    path = Path(model.base).expanduser()
    if path.is_dir():
        return path
    if path.is_file():
        raise UserError(
            f"model.base={model.base} is a single file; expected a diffusers folder. Convert it: {_CONVERT}"
        )
    if not _HUB_ID.fullmatch(model.base):
        raise UserError(
            f"model.base={model.base}: no such folder, and not a hub id (owner/name); "
            f"accepted: `{MINIATURE}`, a diffusers folder, a hub id"
        )
    return _download(model)


def _download(model: ModelConfig) -> Path:
    """Returns the hub snapshot's folder; fetches only configs, tokenizer and safetensors."""
    from huggingface_hub import constants, snapshot_download

    weights = [f"{part}/{stem}{tail}" for part, stem in WEIGHT_FILES.items() for tail in _tails(variant="")]
    half = [f"{part}/{stem}{tail}" for part, stem in WEIGHT_FILES.items() for tail in _tails(variant=".fp16")]
    try:
        for patterns in (weights, half):
            folder = Path(
                snapshot_download(
                    model.base,
                    revision=model.revision,
                    allow_patterns=[*_SMALL_FILES, *patterns],
                    local_files_only=model.offline,
                )
            )
            if any(folder.glob("unet/*.safetensors")):
                break
    except Exception as error:  # the hub client raises its own, the HTTP library's and the system's
        reason = "model.offline=true" if model.offline else str(error).strip().split("\n")[0]
        raise UserError(
            f"model.base={model.base}: no folder of that name, not in the cache {constants.HF_HUB_CACHE}, and not "
            f"fetched ({reason}); go online once, or use model.base=FOLDER or model.base={MINIATURE}"
        ) from None
    return folder


def _tails(variant: str) -> tuple[str, ...]:
    return f"{variant}.safetensors", f"{variant}-0*.safetensors", f".safetensors.index{variant}.json"


def _check_parts(name: str, folder: Path) -> None:
    """Raises UserError unless the folder holds every part of a Stable Diffusion with safe weights."""
    if not folder.is_dir():
        raise UserError(f"model.base={name}: its folder {folder} is missing; install delora_sd again")
    for part in (*WEIGHT_FILES, "tokenizer", "scheduler"):
        if not (folder / part).is_dir():
            found = ", ".join(sorted(path.name for path in folder.iterdir())[:8]) or "nothing"
            raise UserError(f"model.base={name}: no {part}/ in {folder} (found: {found}); expected a diffusers folder")
    for part in WEIGHT_FILES:
        weights_variant(folder, part)
        check_part(folder, part, WEIGHT_FILES[part])


def _check_is_sd1_or_sd2(name: str, unet: dict, vae: dict) -> None:
    latent_channels = vae.get("latent_channels", 4)
    if unet.get("addition_embed_type") or not isinstance(unet.get("cross_attention_dim"), int):
        raise UserError(f"model.base={name}: not a Stable Diffusion 1.x or 2.x (SDXL and others are not supported)")
    if unet.get("in_channels") != latent_channels:
        raise UserError(
            f"model.base={name}: the UNet takes {unet.get('in_channels')} channels, the VAE gives {latent_channels}; "
            "inpainting and other special models are not supported"
        )
    if unet.get("out_channels", latent_channels) != latent_channels:
        raise UserError(
            f"model.base={name}: the UNet gives {unet['out_channels']} channels for {latent_channels}; "
            "models that also learn their variance are not supported"
        )
    if unet.get("time_cond_proj_dim") is not None:
        raise UserError(
            f"model.base={name}: its UNet takes the guidance scale as an input (distilled, LCM); use the model it was "
            "distilled from"
        )


def _is_marked_random(folder: Path) -> bool:
    """Test models say so themselves: `"_random_weights": true` in model_index.json."""
    index = folder / "model_index.json"
    return index.is_file() and bool(_read_json(index).get("_random_weights"))


def _size_px(model: ModelConfig, unet: dict, vae: dict) -> int:
    """Returns the side of the images; a side must survive the VAE's halvings."""
    factor = _vae_factor(vae)
    smallest = factor * 2 ** (len(unet["block_out_channels"]) - 1)
    own_px = unet["sample_size"] * factor
    source = f"model.base={model.base}: {own_px} px" if model.size_px is None else f"model.size_px={model.size_px}"
    size_px = own_px if model.size_px is None else model.size_px
    check_side(source, size_px, factor=factor, smallest=smallest)
    return size_px


def _num_text_tokens(name: str, text_encoder: dict) -> int:
    """What the text encoder has positions for: 77 in every CLIP whose config is silent."""
    num_tokens = text_encoder.get("max_position_embeddings", 77)
    if not isinstance(num_tokens, int) or isinstance(num_tokens, bool) or num_tokens < 3:
        raise UserError(f"model.base={name}: text_encoder with max_position_embeddings {num_tokens!r}; expected 77")
    return num_tokens


def _vae_factor(vae: dict) -> int:
    """Pixels per latent on one side: every block but the last halves."""
    return 2 ** (len(vae["block_out_channels"]) - 1)


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


def _fingerprint(folder: Path) -> str:
    """Returns one SHA-256 over names and contents of the configs, the tokenizer and the weights that get loaded."""
    files = {file for pattern in _SMALL_FILES for file in folder.glob(pattern)} - {folder / "model_index.json"}
    for part in WEIGHT_FILES:
        infix = ".fp16" if weights_variant(folder, part) else ""
        shards = (".fp16-0*", ".*.index.fp16.json") if infix else ()
        for tail in (f"{infix}.safetensors*", "-0*.safetensors", *shards):
            files |= set((folder / part).glob(WEIGHT_FILES[part] + tail))
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
