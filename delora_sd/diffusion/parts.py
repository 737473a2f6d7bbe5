"""The frozen parts of Stable Diffusion, one loader each, so that a part can leave memory when its work is done."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from delora_sd.diffusion.bases import Base, find_base, sd15_configs, weights_variant
from delora_sd.diffusion.spelling import write_spelling_tokenizer
from delora_sd.errors import UserError

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

__all__ = [
    "Base",
    "find_base",
    "load_noise_scheduler",
    "load_text_encoder",
    "load_tokenizer",
    "load_unet",
    "load_vae",
    "resolve_device",
    "resolve_dtype",
]

RANDOM_WEIGHTS_SEED = 0
"""Random weights are the same in every run."""

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def resolve_device() -> torch.device:
    """Returns the accelerator of this machine (CUDA, ROCm, XPU, MPS), else the CPU."""
    return torch.accelerator.current_accelerator() if torch.accelerator.is_available() else torch.device("cpu")


def resolve_dtype(name: str, device: torch.device) -> torch.dtype:
    """Returns the base's precision for `model.dtype`; auto: bf16 on a GPU that has it, fp16 on older ones, or fp32."""
    if name != "auto":
        return _DTYPES[name]
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    return torch.bfloat16 if device.type == "xpu" else torch.float32


def load_unet(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> "UNet2DConditionModel":
    """Returns the frozen UNet. On device "meta" only its shapes: in seconds, whatever its size."""
    from diffusers import UNet2DConditionModel

    return _load_diffusers_part(UNet2DConditionModel, base, "unet", device=device, dtype=dtype)


def load_vae(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> "AutoencoderKL":
    """Returns the frozen VAE."""
    from diffusers import AutoencoderKL

    return _load_diffusers_part(AutoencoderKL, base, "vae", device=device, dtype=dtype)


def load_text_encoder(
    base: Base, *, device: torch.device | str, dtype: torch.dtype
) -> "tuple[CLIPTokenizer, CLIPTextModel]":
    """Returns the tokenizer and the frozen text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    if base.folder is None:
        config = CLIPTextConfig(**sd15_configs()["text_encoder"])
        model = _build(lambda: CLIPTextModel(config), device=device, dtype=dtype)
    else:
        variant = weights_variant(base.folder, "text_encoder")
        model = _load_weights(CLIPTextModel, base, "text_encoder", dtype=dtype, variant=variant)
    return load_tokenizer(base), _freeze(model, device)


def load_tokenizer(base: Base) -> "CLIPTokenizer":
    """Returns the base's tokenizer, as long as its text encoder reads; random weights get one that spells."""
    from transformers import CLIPTokenizer

    if base.folder is not None:
        load = lambda: CLIPTokenizer.from_pretrained(str(base.folder / "tokenizer"), local_files_only=True)  # noqa: E731
        tokenizer = _explain(base, "tokenizer", load)
        tokenizer.model_max_length = base.num_text_tokens  # files of many models lack it, or say 10**30
        return tokenizer
    config = sd15_configs()["text_encoder"]
    with tempfile.TemporaryDirectory() as folder:
        write_spelling_tokenizer(Path(folder), start_id=config["bos_token_id"], end_id=config["eos_token_id"])
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def load_noise_scheduler(base: Base) -> "DDPMScheduler":
    """Returns the base's noise schedule as a DDPM; training needs its `alphas_cumprod`."""
    from diffusers import DDPMScheduler

    return DDPMScheduler(**base.schedule.for_diffusers())


def _load_diffusers_part(
    model_class: type, base: Base, part: str, *, device: torch.device | str, dtype: torch.dtype
) -> nn.Module:
    if base.folder is None:
        return _freeze(_build(lambda: model_class(**sd15_configs()[part]), device=device, dtype=dtype), device)
    if torch.device(device).type == "meta":
        config = model_class.load_config(str(base.folder), subfolder=part)
        return _freeze(_build(lambda: model_class.from_config(config), device=device, dtype=dtype), device)
    variant = weights_variant(base.folder, part)
    return _freeze(_load_weights(model_class, base, part, dtype=dtype, variant=variant), device)


def _build(build: Callable[[], nn.Module], *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Returns a freshly initialised model; the caller's random streams are left as they were."""
    with torch.random.fork_rng(), torch.device(device):
        torch.manual_seed(RANDOM_WEIGHTS_SEED)
        return nn.Module.to(build(), dtype)  # diffusers' own `to` logs a warning about nothing


def _load_weights(model_class: type, base: Base, part: str, *, dtype: torch.dtype, variant: str | None) -> nn.Module:
    """Returns the part with the folder's weights; every one of them must be there, of its shape, and finite."""
    model, info = _explain(
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


def _explain(base: Base, part: str, load: Callable[[], Any]) -> Any:
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


def _freeze(model: nn.Module, device: torch.device | str) -> nn.Module:
    return model.to(device).eval().requires_grad_(False)
