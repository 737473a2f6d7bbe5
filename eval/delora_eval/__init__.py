"""The judge: encoders, metrics, protocols, scores, benchmark and report. It may import the maker, never the reverse.

    from delora_eval import score

The function loads on first use: importing any module of the package is fast and has no side effects.
"""

from importlib import import_module
from typing import Any

_FUNCTIONS = ("score",)


def __getattr__(name: str) -> Any:
    """Finds the functions of `delora_eval.api` when they are asked for (PEP 562)."""
    if name in _FUNCTIONS:
        return getattr(import_module("delora_eval.api"), name)
    raise AttributeError(f"module 'delora_eval' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_FUNCTIONS])
