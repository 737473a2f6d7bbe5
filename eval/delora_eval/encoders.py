"""The judges' eyes: DINO and CLIP with real weights, found on disk, in the hub's cache or on the hub.

Weights are safetensors only: a pickle can run code when it is read. Every encoder carries an id and the hash of its
weights, and passes both on to every number it makes.
"""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from delora_eval.images import HALF, Preprocessing, hash_file
from delora_eval.settings import EncoderConfig
from delora_sd.errors import UserError, nearest_name
from delora_sd.run_folder import read_json
from delora_sd.tensor_file import read_tensors

HASH_DIGITS = 16
RANDOM_SEED = 0


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


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A loaded encoder: functions from pictures and texts to vectors."""

    id: str
    device: torch.device
    preprocessing: Preprocessing | None
    """Only for encoders whose own config.json decides it."""
    see: Callable[[Float[Tensor, "N 3 H W"]], Float[Tensor, "N D"]]
    read: Callable[[Sequence[str]], Float[Tensor, "N D"]] | None


def find_weights(encoder_id: str, config: EncoderConfig) -> Weights:
    """Returns the encoder's weights, found and hashed; no model is built.

    Raises:
        UserError: no weights (says what is needed, where it looked and what to do), or a file that is refused.
    """
    if encoder_id not in ENCODERS:
        raise UserError(f"unknown encoder '{encoder_id}'{nearest_name(encoder_id, tuple(ENCODERS))}")
    spec = ENCODERS[encoder_id]
    if spec.kind == "miniature":
        file = _miniature_folder(spec) / "model.safetensors"
        if not file.is_file():
            raise UserError(
                f"the bundled judge '{spec.id}' is not in this installation ({file}); install delora_sd again"
            )
    elif config.random_weights:
        return Weights(spec=spec, file=None, hash="random")
    else:
        file = _find_file(spec, config)
    return Weights(spec=spec, file=file, hash=hash_file(file)[:HASH_DIGITS])


def load_encoder(weights: Weights, device: torch.device) -> Encoder:
    """Returns the encoder in fp32 on its device.

    Raises:
        UserError: the file holds the weights of something else.
    """
    if weights.spec.kind == "miniature":
        return _load_miniature(weights.spec, device)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        model, see, read = _build_dino(weights.spec) if weights.spec.kind == "timm" else _build_clip(weights.spec)
    if weights.file is not None:
        _load_weights(model, weights.file, weights.spec)
    model.eval().requires_grad_(False).to(device)
    return Encoder(id=weights.spec.id, device=device, preprocessing=None, see=see, read=read)


def see_pictures(encoder: Encoder, pictures: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    """Returns unit vectors on the CPU, in fp32; TF32 would change the third decimal of a score."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        features = encoder.see(pictures.to(encoder.device))
    return nn.functional.normalize(features.float(), dim=-1).cpu()


def read_texts(encoder: Encoder, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Returns unit vectors on the CPU, in fp32."""
    if encoder.read is None:
        raise UserError(f"encoder '{encoder.id}' reads no text; use a CLIP")
    with torch.inference_mode():
        return nn.functional.normalize(encoder.read(texts).float(), dim=-1).cpu()


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


def pick_device(name: str) -> torch.device:
    """Returns the device of a setting; auto prefers a GPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


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


def _build_dino(spec: EncoderSpec) -> tuple[nn.Module, Callable, None]:
    """With no classes, timm's forward returns the CLS token after the final norm: DINO's feature."""
    import timm

    model = timm.create_model(spec.architecture, pretrained=False, num_classes=0)
    return model, model, None


def _build_clip(spec: EncoderSpec) -> tuple[nn.Module, Callable, Callable]:
    """Built from open_clip's config, never through its factory, which may download or unpickle."""
    import open_clip

    model = open_clip.CLIP(**open_clip.get_model_config(spec.architecture))
    tokenize = open_clip.get_tokenizer(spec.architecture)

    def read(texts: Sequence[str]) -> Tensor:
        return model.encode_text(tokenize(list(texts)).to(model.logit_scale.device))

    return model, model.encode_image, read


def _load_weights(model: nn.Module, file: Path, spec: EncoderSpec) -> None:
    state, _ = read_tensors(file)
    problem = _mismatch(model.state_dict(), state)
    if problem:
        raise UserError(
            f"{file}: not the weights of '{spec.id}' ({problem}); expected {spec.file} of {spec.repository}"
        )
    model.load_state_dict(state)


def _mismatch(expected: dict[str, Tensor], found: dict[str, Tensor]) -> str:
    """Returns what differs, "" when names and shapes agree."""
    missing, unknown = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    if missing or unknown:
        examples = ", ".join([f"no {name}" for name in missing[:1]] + [f"unknown {name}" for name in unknown[:1]])
        return f"{len(missing)} tensors missing, {len(unknown)} unknown: {examples}"
    for name, tensor in expected.items():
        if tensor.shape != found[name].shape:
            return f"{name} is {tuple(found[name].shape)}, expected {tuple(tensor.shape)}"
    return ""


def _load_miniature(spec: EncoderSpec, device: torch.device) -> Encoder:
    """The miniature world's own judges: bundled, so there is nothing to find."""
    from delora_sd.miniature import judges

    folder = _miniature_folder(spec)
    if spec.id == "mini-dino":
        model = judges.load_mini_dino(folder)
        see, read = model, None
    else:
        model, tokenize = judges.load_mini_clip(folder)
        see = model.encode_image

        def read(texts: Sequence[str]) -> Tensor:
            return model.encode_text(tokenize(list(texts)).to(device))

    model.eval().requires_grad_(False).to(device)
    preprocessing = _read_preprocessing(folder / "config.json")
    return Encoder(id=spec.id, device=device, preprocessing=preprocessing, see=see, read=read)


def _miniature_folder(spec: EncoderSpec) -> Path:
    from delora_sd.miniature import JUDGES

    return Path(JUDGES[spec.id])


def _read_preprocessing(file: Path) -> Preprocessing:
    config = read_json(file)
    size_px = config["image_size"]
    return Preprocessing(
        resize="short_side",
        resize_px=size_px,
        crop_px=size_px,
        resample="bicubic",
        mean=tuple(config.get("mean", HALF[0])),
        std=tuple(config.get("std", HALF[1])),
    )
