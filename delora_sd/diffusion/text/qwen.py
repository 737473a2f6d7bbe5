"""Qwen3 as a text encoder: prompts in its chat template to tokens, tokens to hidden states; a family picks among them.

The language model's last layer is never needed, so it is not loaded.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.loading import explain, load_transformers_part
from delora_sd.errors import UserError

MAX_TOKENS = 512
"""What the pipelines of these bases pad every prompt to."""
TEXT_BATCH = 8
"""Prompts per forward: at Qwen3-4B's size the hidden states of 8 take 0.8 GB in bf16."""

_SPELLED_TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}<|im_end|>"


@dataclass(frozen=True, kw_only=True)
class TextEncoder:
    """Qwen3 with its tokenizer, and what a base reads of it."""

    tokenizer: Any
    model: nn.Module
    num_tokens: int
    layers: tuple[int, ...] = ()
    """Hidden states that are stacked, where a base stacks some; 0 is the embedding."""


def num_text_tokens(source: str, text_encoder: dict) -> int:
    """Returns the longest prompt: 512 tokens, fewer where the encoder has fewer positions."""
    num_positions = text_encoder.get("max_position_embeddings", MAX_TOKENS)
    if not isinstance(num_positions, int) or isinstance(num_positions, bool) or num_positions < 4:
        raise UserError(f"{source}: text_encoder with max_position_embeddings {num_positions!r}; expected 40960")
    return min(MAX_TOKENS, num_positions)


def check_is_qwen3(source: str, text_encoder: dict) -> None:
    """Raises UserError for a text encoder of another kind."""
    kind = text_encoder.get("model_type", "qwen3")
    if kind != "qwen3":
        raise UserError(f"{source}: its text encoder is of type {str(kind)[:80]}; expected qwen3")


def load_text_encoder(
    base: Base, *, device: torch.device | str, dtype: torch.dtype, layers: tuple[int, ...] = ()
) -> TextEncoder:
    """Returns the tokenizer and the frozen encoder."""
    from transformers import Qwen3Config, Qwen3Model

    model = load_transformers_part(Qwen3Model, Qwen3Config, base, "text_encoder", device=device, dtype=dtype)
    return TextEncoder(tokenizer=load_tokenizer(base), model=model, num_tokens=base.num_text_tokens, layers=layers)


def load_tokenizer(base: Base) -> Any:
    """Returns the base's tokenizer, which knows how a prompt is put to the model; random weights get one that spells.

    Raises:
        UserError: no chat template: the conditioning would silently be another.
    """
    from transformers import Qwen2Tokenizer

    if base.folder is None:
        return _spelling_tokenizer()
    folder = base.folder / "tokenizer"
    tokenizer = explain(base, "tokenizer", lambda: Qwen2Tokenizer.from_pretrained(str(folder), local_files_only=True))
    if not tokenizer.chat_template:
        raise UserError(
            f"model.base={base.name}: {folder} has no chat template (chat_template.jinja, or in "
            "tokenizer_config.json), in which this base is given its prompts; get the whole tokenizer folder again"
        )
    return tokenizer


def _spelling_tokenizer() -> Any:
    """A tokenizer without merges, for models whose words mean nothing: a token is a byte."""
    from tokenizers.pre_tokenizers import ByteLevel
    from transformers import Qwen2Tokenizer

    tokens = [*sorted(ByteLevel.alphabet()), "<|endoftext|>", "<|im_end|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return Qwen2Tokenizer(vocab=vocab, merges=[], eos_token="<|im_end|>", chat_template=_SPELLED_TEMPLATE)


def encode(
    texts: Sequence[str], text: TextEncoder, read: Callable[[tuple[Tensor, ...]], Tensor], *, is_thinking: bool
) -> list[tuple[Tensor, Tensor]]:
    """Returns (what `read` makes of all hidden states, (tokens, width); which tokens are no padding) of each prompt.

    Args:
        is_thinking: Whether the template lets the model think before it answers; a base was trained with one of both.
    """
    found = []
    for start in range(0, len(texts), TEXT_BATCH):
        prompts = [_as_message(prompt, text.tokenizer, is_thinking) for prompt in texts[start : start + TEXT_BATCH]]
        _warn_if_cut(prompts, text)
        tokens = text.tokenizer(
            prompts, padding="max_length", max_length=text.num_tokens, truncation=True, return_tensors="pt"
        ).to(text.model.device)
        states = text.model(**_inputs(tokens), output_hidden_states=True, use_cache=False).hidden_states
        found += zip(read(states), tokens.attention_mask.bool(), strict=True)
    return found


def _inputs(tokens: Any) -> dict[str, Tensor]:
    return {"input_ids": tokens.input_ids, "attention_mask": tokens.attention_mask}


def _as_message(prompt: str, tokenizer: Any, is_thinking: bool) -> str:
    messages = [{"role": "user", "content": prompt}]
    return tokenizer.apply_chat_template(
        messages, tokenize=False, add_generation_prompt=True, enable_thinking=is_thinking
    )


def _warn_if_cut(prompts: Sequence[str], text: TextEncoder) -> None:
    """Warns of each prompt whose end the text encoder will not see."""
    for prompt in dict.fromkeys(prompts):
        ids = text.tokenizer(prompt, verbose=False).input_ids
        if len(ids) > text.num_tokens:
            cut = text.tokenizer.decode(ids[text.num_tokens :])
            cut = cut if len(cut) <= 80 else cut[:77] + "..."
            said = f"prompt '{prompt[:40]}...' has {len(ids)} tokens, the model reads {text.num_tokens}"
            warnings.warn(f"{said}; not seen: '{cut}'", stacklevel=3)
