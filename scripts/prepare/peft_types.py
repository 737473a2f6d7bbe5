"""Writes docs/PEFT_TYPES.md: which of PEFT's types `adapter.method=peft` accepts, each tried from start to merge.

python scripts/prepare/peft_types.py
"""

import logging
import warnings
from importlib.metadata import version
from pathlib import Path
from typing import Any

from torch import nn

from delora_sd.adapters.peft.bridge import build_config, known_kinds
from delora_sd.adapters.peft.trial import check_works
from delora_sd.errors import UserError

PAGE = Path(__file__).resolve().parents[2] / "docs" / "PEFT_TYPES.md"

SETTINGS: dict[str, dict[str, Any]] = {
    "ADALORA": {"total_step": 10},
    "BEFT": {"target_modules": ["to_out.0"]},
    "C3A": {"block_size": 8},
    "FOURIERFT": {"n_frequency": 50},
    "IA3": {"feedforward_modules": []},
    "LN_TUNING": {"target_modules": ["norm1"]},
    "MISS": {"r": 8},
    "ROAD": {"group_size": 8},
    "SHIRA": {"r": 8},
    "WAVEFT": {"n_frequency": 50},
    "VBLORA": {"num_vectors": 8, "vector_length": 8},
}
"""What a type cannot do without; all the others run with their defaults."""

VARIANTS: dict[str, dict[str, Any]] = {
    "LORA, init_lora_weights=pissa": {"init_lora_weights": "pissa"},
    "LORA, init_lora_weights=pissa_niter_4": {"init_lora_weights": "pissa_niter_4"},
    "LORA, init_lora_weights=olora": {"init_lora_weights": "olora"},
    "LORA, init_lora_weights=orthogonal": {"init_lora_weights": "orthogonal"},
    "LORA, init_lora_weights=mica": {"init_lora_weights": "mica"},
    "LORA, init_lora_weights=loftq": {"init_lora_weights": "loftq", "loftq_config": {"loftq_bits": 4, "loftq_iter": 1}},
    "LORA, init_lora_weights=eva": {"init_lora_weights": "eva"},
    "LORA, init_lora_weights=corda": {"init_lora_weights": "corda"},
    "LORA, init_lora_weights=lora_ga": {"init_lora_weights": "lora_ga"},
    "LORA, use_dora": {"use_dora": True},
    "LORA, lora_bias": {"lora_bias": True, "target_modules": ["to_out.0"]},
    "LORA, kasa_config": {"kasa_config": {}},
    "LORA, use_qalora": {"use_qalora": True},
}

HEAD = """# PEFT's types

`adapter.method=peft` trains any configuration that works from end to end. At the door, before a model loads, each is
put into small copies of the base's layers, trained for a step, saved, loaded again, and merged; the merged layers must
answer what the trained ones did. This table is PEFT {version}'s types with their default settings, tried on a small
attention block (`python scripts/prepare/peft_types.py` writes it, a test compares it). Types for prompts and for
language models only (prompt tuning, X-LoRA, ...) have no layers to sit in and are unknown here.

| type | verdict | why |
| --- | --- | --- |
"""


def small_block() -> nn.Module:
    """Returns an attention's layers: Linear without and with bias, and a norm."""
    block = nn.Module()
    block.norm1 = nn.LayerNorm(32)
    block.attn1 = nn.Module()
    for name in ("to_q", "to_k", "to_v"):
        block.attn1.add_module(name, nn.Linear(32, 32, bias=False))
    block.attn1.to_out = nn.ModuleList([nn.Linear(32, 32)])
    return block


def try_types() -> dict[str, str]:
    """Returns {type or variant: "" where it works, else why it does not}."""
    cases = {kind: {"peft_type": kind} | SETTINGS.get(kind, {}) for kind in known_kinds()}
    cases |= {name: {"peft_type": "LORA"} | settings for name, settings in VARIANTS.items()}
    return {name: _try(settings) for name, settings in sorted(cases.items())}


def _try(settings: dict[str, Any]) -> str:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PEFT's remarks on experimental types
        try:
            values = {"target_modules": ["to_q", "to_k", "to_v", "to_out.0"]} | settings
            check_works(build_config(values, source=Path("config")), small_block(), source="config")
        except UserError as error:
            return str(error).removeprefix("config: ")
    return ""


def render(found: dict[str, str]) -> str:
    """Returns the page."""
    rows = [f"| {name} | {'refused' if reason else 'works'} | {_cell(reason)} |" for name, reason in found.items()]
    return HEAD.format(version=version("peft")) + "\n".join(rows) + "\n"


def _cell(reason: str) -> str:
    return reason.replace("|", "/")


if __name__ == "__main__":
    logging.disable(logging.WARNING)
    PAGE.write_text(render(try_types()), encoding="utf-8")
