"""Texts to token ids, from a tokenizer's files on disk or, for untrained weights, from the words' own bytes."""

import zlib
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from delora_sd.errors import UserError

TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")

Tokenize = Callable[[Sequence[str]], Tensor]
"""Texts to ids, (texts, length)."""


def folder_tokenizer(folder: Path, length: int) -> Tokenize:
    """Returns the tokenizer saved in a folder; every text becomes `length` ids, padded and cut.

    Raises:
        UserError: files that transformers cannot read as a tokenizer.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # the tokenizer's readers raise many kinds; all mean "not a tokenizer"
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{folder}: no readable tokenizer ({reason}); expected {' and '.join(TOKENIZER_FILES)}"
        ) from None

    def tokenize(texts: Sequence[str]) -> Tensor:
        return tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        ).input_ids

    return tokenize


def random_tokenizer(vocabulary: int, length: int) -> Tokenize:
    """Returns a stand-in for untrained weights: every word its own id, the same on every machine. It means nothing."""

    def tokenize(texts: Sequence[str]) -> Tensor:
        ids = torch.zeros(len(texts), length, dtype=torch.long)
        for row, text in enumerate(texts):
            words = text.lower().split()[:length]
            ids[row, : len(words)] = torch.tensor([1 + zlib.crc32(word.encode()) % (vocabulary - 1) for word in words])
        return ids

    return tokenize
