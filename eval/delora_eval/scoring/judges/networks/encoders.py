"""The judges' eyes, from images and texts to unit vectors, in fp32: an architecture, and the weights that fill it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from delora_eval.scoring.judges.networks.contrastive import build_contrastive
from delora_eval.scoring.judges.networks.dreamsim import DreamSimEnsemble
from delora_eval.scoring.judges.networks.preprocessing import HALF, Preprocessing
from delora_eval.scoring.judges.networks.vision import build_vit, fit_positions
from delora_eval.scoring.judges.networks.weights import EncoderSpec, Weights, miniature_folder
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json
from delora_sd.files.tensors import read_tensors

RANDOM_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """A loaded encoder: functions from images and texts to vectors."""

    id: str
    device: torch.device
    preprocessing: Preprocessing | None
    """Only for encoders whose own config.json decides it."""
    see: Callable[[Float[Tensor, "N 3 H W"]], Float[Tensor, "N D"]]
    read: Callable[[Sequence[str]], Float[Tensor, "N D"]] | None


def load_encoder(weights: Weights, device: torch.device) -> Encoder:
    """Returns the encoder in fp32 on its device.

    Raises:
        UserError: the file holds the weights of something else.
    """
    if weights.spec.kind == "miniature":
        return _load_miniature(weights.spec, device)
    _, see, read = fill(weights, lambda: _build(weights), device)
    return Encoder(id=weights.spec.id, device=device, preprocessing=None, see=see, read=read)


def fill(weights: Weights, build: Callable[[], tuple], device: torch.device) -> tuple:
    """Returns what `build` returns, its model (the first) filled with the weights and frozen on its device.

    Without a file the model keeps its start, the same on every machine.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(RANDOM_SEED)
        built = build()
    model = built[0]
    if weights.file is not None:
        _load_weights(model, weights.file, weights.spec)
    model.eval().requires_grad_(False).to(device)
    return built


def see_images(encoder: Encoder, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
    """Returns unit vectors on the CPU, in fp32; TF32 would change the third decimal of a score."""
    with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, benchmark=False, allow_tf32=False):
        features = encoder.see(images.to(encoder.device))
    return nn.functional.normalize(features.float(), dim=-1).cpu()


def read_texts(encoder: Encoder, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Returns unit vectors on the CPU, in fp32."""
    if encoder.read is None:
        raise UserError(f"encoder '{encoder.id}' reads no text; use a CLIP")
    with torch.inference_mode():
        return nn.functional.normalize(encoder.read(texts).float(), dim=-1).cpu()


def pick_device(name: str) -> torch.device:
    """Returns the device of a setting; auto prefers a GPU."""
    if name != "auto":
        return torch.device(name)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _build(weights: Weights) -> tuple[nn.Module, Callable, Callable | None]:
    """Returns (model, images to vectors, texts to vectors or None)."""
    spec = weights.spec
    if spec.kind == "open_clip":
        return build_contrastive(spec.architecture, spec.sizes, tokenizer=weights.tokenizer)
    model = DreamSimEnsemble(**spec.sizes) if spec.kind == "dreamsim" else build_vit(spec.architecture, spec.sizes)
    return model, model, None


def _load_weights(model: nn.Module, file: Path, spec: EncoderSpec) -> None:
    state = fit_positions(read_tensors(file)[0], model)
    problem = _mismatch(model.state_dict(), state)
    if problem:
        source = f"{spec.file} of {spec.repository}" if spec.repository else f"{spec.file}, {spec.origin}"
        raise UserError(f"{file}: not the weights of '{spec.id}' ({problem}); expected {source}")
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

    folder = miniature_folder(spec)
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
