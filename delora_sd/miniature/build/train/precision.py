"""In which precision the build computes: bf16 where the processor has it, fp32 where bf16 would be emulated.

On an x86 core without AVX512-bf16 or AMX a training step in bf16 takes ten times as long as one in fp32.
"""

from contextlib import AbstractContextManager

import torch


def compute_dtype(device: torch.device) -> torch.dtype:
    """bf16 on accelerators and on processors with instructions for it, else fp32."""
    is_native = device.type != "cpu" or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if is_native else torch.float32


def computing(device: torch.device) -> AbstractContextManager[None]:
    """Autocast to `compute_dtype`; does nothing where that is fp32."""
    dtype = compute_dtype(device)
    return torch.autocast(device.type, dtype=dtype, enabled=dtype != torch.float32)
