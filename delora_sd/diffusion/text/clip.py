"""CLIP's text encoders: prompts to tokens, tokens to hidden states. Which of its layers is read is the family's."""

import tempfile
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.loading import explain, load_transformers_part
from delora_sd.diffusion.text.spelling import write_spelling_tokenizer
from delora_sd.errors import UserError

if TYPE_CHECKING:
    from transformers import CLIPTextModel, CLIPTokenizer

TEXT_BATCH = 64
"""Prompts per forward of the text encoder (0.1 TFLOP at SD 1.5's size)."""


def load_text_encoder(
    base: Base, *, device: torch.device | str, dtype: torch.dtype
) -> "tuple[CLIPTokenizer, CLIPTextModel]":
    """Returns the tokenizer and the frozen text encoder."""
    from transformers import CLIPTextConfig, CLIPTextModel

    model = load_transformers_part(CLIPTextModel, CLIPTextConfig, base, "text_encoder", device=device, dtype=dtype)
    return load_tokenizer(base), model


def load_tokenizer(base: Base, part: str = "tokenizer", encoder: str = "text_encoder") -> "CLIPTokenizer":
    """Returns a tokenizer of the base, as long as its text encoder reads; random weights get one that spells."""
    from transformers import CLIPTokenizer

    if base.folder is not None:
        load = lambda: CLIPTokenizer.from_pretrained(str(base.folder / part), local_files_only=True)  # noqa: E731
        tokenizer = explain(base, part, load)
        tokenizer.model_max_length = base.num_text_tokens  # files of many models lack it, or say 10**30
        return tokenizer
    config = base.configs[encoder]
    with tempfile.TemporaryDirectory() as folder:
        write_spelling_tokenizer(Path(folder), start_id=config["vocab_size"] - 2, end_id=config["vocab_size"] - 1)
        return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


@torch.no_grad()
def encode_prompts(texts: Sequence[str], tokenizer: "CLIPTokenizer", text_encoder: "CLIPTextModel") -> Tensor:
    """Returns the last hidden states of each prompt, (prompts, tokens, dim), in the text encoder's dtype and place.

    Warns of each prompt that is longer than the tokenizer's limit, with the words that are cut.
    """
    warn_if_cut(texts, tokenizer)
    return torch.cat(in_batches(texts, tokenizer, lambda ids: text_encoder(ids.to(text_encoder.device))[0]))


def in_batches(texts: Sequence[str], tokenizer: "CLIPTokenizer", encode: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """Returns `encode` of the prompts' ids, (prompts, tokens), a batch at a time."""
    batches = []
    for start in range(0, len(texts), TEXT_BATCH):
        tokens = tokenizer(
            list(texts[start : start + TEXT_BATCH]),
            padding="max_length",
            max_length=tokenizer.model_max_length,
            truncation=True,
            return_tensors="pt",
        )
        batches.append(encode(tokens.input_ids))
    return batches


def warn_if_cut(texts: Sequence[str], tokenizer: "CLIPTokenizer") -> None:
    """Warns of each prompt whose end the text encoder will not see."""
    num_words = tokenizer.model_max_length - 2  # start and end marks
    for text in dict.fromkeys(texts):
        ids = tokenizer(text, add_special_tokens=False, verbose=False).input_ids
        if len(ids) > num_words:
            cut = tokenizer.decode(ids[num_words:])
            cut = cut if len(cut) <= 80 else cut[:77] + "..."
            warnings.warn(
                f"prompt '{text[:40]}...' has {len(ids)} tokens, the model reads {num_words}; not seen: '{cut}'",
                stacklevel=3,
            )


def num_text_tokens(source: str, text_encoder: dict, *, part: str = "text_encoder") -> int:
    """What the text encoder has positions for: 77 in every CLIP whose config is silent."""
    num_tokens = text_encoder.get("max_position_embeddings", 77)
    if not isinstance(num_tokens, int) or isinstance(num_tokens, bool) or num_tokens < 3:
        raise UserError(f"{source}: {part} with max_position_embeddings {num_tokens!r}; expected 77")
    return num_tokens
