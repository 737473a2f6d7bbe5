"""The frozen parts of a base, one loader each, so that a part can leave memory when its work is done."""

from typing import Any

import torch
from torch import nn

from delora_sd.diffusion.families.family import Base

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


def load_denoiser(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Returns the frozen part that is adapted. On device "meta" only its shapes: in seconds, whatever its size."""
    return base.family.load_denoiser(base, device=device, dtype=dtype)


def load_vae(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> nn.Module:
    """Returns the frozen VAE, in the asked precision or one in which it does not overflow."""
    return base.family.load_vae(base, device=device, dtype=dtype)


def load_text(base: Base, *, device: torch.device | str, dtype: torch.dtype) -> Any:
    """Returns the frozen tokenizers and text encoders, as `base.family.encode_prompts` takes them."""
    return base.family.load_text(base, device=device, dtype=dtype)


def text_bytes(text: Any) -> int:
    """Returns what the encoders among the parts that `load_text` returned hold."""
    parts = text if isinstance(text, tuple) else vars(text).values() if text is not None else ()
    return sum(model_bytes(part) for part in parts if isinstance(part, nn.Module))


def model_bytes(model: nn.Module) -> int:
    """Returns what the model's parameters and buffers hold."""
    return sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers()))
