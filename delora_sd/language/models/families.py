"""What differs between families of language models: the names of their linear layers."""

from typing import Any

from delora_sd.errors import UserError

QUERY_VALUE = {
    "bert": ("query", "value"),
    "deberta-v2": ("query_proj", "value_proj"),
    "distilbert": ("q_lin", "v_lin"),
    "electra": ("query", "value"),
    "gemma": ("q_proj", "v_proj"),
    "gemma2": ("q_proj", "v_proj"),
    "llama": ("q_proj", "v_proj"),
    "mistral": ("q_proj", "v_proj"),
    "opt": ("q_proj", "v_proj"),
    "qwen2": ("q_proj", "v_proj"),
    "qwen3": ("q_proj", "v_proj"),
    "roberta": ("query", "value"),
    "xlm-roberta": ("query", "value"),
}
"""{model_type: last parts of the names of the query and value layers}: what the paper adapts in language."""


def target_names(model_config: Any, asked: tuple[str, ...]) -> tuple[str, ...]:
    """Returns the layers to adapt: those asked for, else query and value of the model's family.

    Raises:
        UserError: a family whose names are not known here.
    """
    if asked:
        return asked
    kind = model_config.model_type
    if kind not in QUERY_VALUE:
        known = ", ".join(QUERY_VALUE)
        raise UserError(
            f"adapter.target_modules: the layers of a '{kind}' model have no names here (known: {known}); name them, "
            "such as adapter.target_modules=[q_proj,v_proj]"
        )
    return QUERY_VALUE[kind]


def max_positions(model_config: Any) -> int | None:
    """Returns how many tokens the model takes; RoBERTa's table of positions begins behind the pad token's."""
    positions = getattr(model_config, "max_position_embeddings", None)
    if positions is not None and model_config.model_type in ("roberta", "xlm-roberta"):
        return positions - model_config.pad_token_id - 1
    return positions
