"""What a LoRA's configuration says, wherever it is written: the one rule for alpha, and what goes beyond B A."""

import math
from typing import Any

from delora_sd.adapters.lowrank.patterns import pattern_value
from delora_sd.files.records import check_record

DEFAULT_ALPHA = 8
"""PEFT's, of a configuration that names none."""

_ADVICE = "get the file again"

_FIELDS = {"lora_alpha": float, "alpha_pattern": dict | None, "use_rslora": bool | None}

PLAIN_STARTS = (True, False, None, "gaussian", "eva", "orthogonal", "mica", "lora_ga")
"""`init_lora_weights` that leave the frozen weights alone when a folder is loaded: only A and B differ at step 0."""

_WITHOUT_EFFECT = (
    "alpha_pattern", "auto_mapping", "base_model_name_or_path", "bias", "corda_config", "ensure_weight_tying",
    "eva_config", "exclude_modules", "inference_mode", "init_lora_weights", "layers_pattern", "layers_to_transform",
    "loftq_config", "lora_alpha", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
    "modules_to_save", "peft_type", "peft_version", "qalora_group_size", "r", "rank_pattern", "revision",
    "target_modules", "task_type", "trainable_token_indices", "use_dora", "use_rslora", "velora_config",
)  # fmt: skip
"""Settings that are read elsewhere, or that change nothing in how saved factors are applied."""


def declared_alpha(config: dict[str, Any], layer: str, rank: int, *, source: str) -> float:
    """Returns the alpha that PEFT and diffusers would use for a layer of this rank: the update is alpha / rank * B A.

    Patterns before `lora_alpha`, PEFT's default without it; of a rank-stabilised LoRA (alpha / sqrt(rank) * B A) the
    alpha that means the same.

    Raises:
        UserError: a field of another kind, or a pattern that is no regular expression.
    """
    check_record(config, {}, _FIELDS, source=source, advice=_ADVICE)
    pattern = config.get("alpha_pattern") or {}
    check_record(pattern, dict.fromkeys(pattern, float), source=f"{source}: alpha_pattern", advice=_ADVICE)
    alpha = float(pattern_value(pattern, layer, config.get("lora_alpha", DEFAULT_ALPHA), source=source))
    return alpha * math.sqrt(rank) if config.get("use_rslora") else alpha


def beyond_plain_lora(config: dict[str, Any]) -> str | None:
    """Returns the setting by which this is more than W + alpha / r B A (or DoRA's), as `key=value`; None: it is not.

    PiSSA, OLoRA, CorDA and LoftQ change the frozen weights, variants change the formula. What a later PEFT adds counts
    as such, too.
    """
    start = config.get("init_lora_weights")
    if (start.lower() if isinstance(start, str) else start) not in PLAIN_STARTS:
        return f"init_lora_weights={start}"
    for key, value in config.items():
        if value and key not in _WITHOUT_EFFECT:
            return f"{key}={str(value)[:60]}"
    return None
