"""The maker: adapters, data, diffusion, training and generation. It knows nothing of the judge (delora_eval).

    from delora_sd import train, generate

The functions load on first use: importing any module of the package is fast and has no side effects.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_FUNCTIONS = ("train", "generate")


def __getattr__(name: str) -> Any:
    """Finds the functions of `delora_sd.api` when they are asked for (PEP 562)."""
    if name in _FUNCTIONS:
        return getattr(import_module("delora_sd.api"), name)
    raise AttributeError(f"module 'delora_sd' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS])
