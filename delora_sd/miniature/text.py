"""The miniature's CLIPTokenizer and CLIPTextModel: a word of the world is one token, others fall back to letters."""

from collections import Counter
from itertools import pairwise

import torch
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from delora_sd.miniature.world.captions import IDENTIFIERS, STRANGE_WORDS, vocabulary

MAX_TOKENS = 24  # the longest benchmark prompt with identifier and "a photo of" takes 18
TEXT_WIDTH = 128
START, END = "<|startoftext|>", "<|endoftext|>"
WORD_END = "</w>"
FALLBACK_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,'-!?"


def new_tokenizer() -> CLIPTokenizer:
    """A tokenizer whose merges make each vocabulary word one token; other words fall back to letters."""
    merges = learn_merges(vocabulary())
    symbols = [*FALLBACK_CHARACTERS, *(character + WORD_END for character in FALLBACK_CHARACTERS)]
    tokens = list(dict.fromkeys([*symbols, *("".join(pair) for pair in merges), START, END]))
    return CLIPTokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token=END,
        bos_token=START,
        eos_token=END,
        pad_token=END,
        model_max_length=MAX_TOKENS,
    )


def learn_merges(words: list[str]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word is a single symbol."""
    return merges_until_whole({word: [*word[:-1], word[-1] + WORD_END] for word in words})


def merges_until_whole(split: dict[str, list[str]]) -> list[tuple[str, str]]:
    """Byte-pair merges, most frequent pair first, until every word's symbols are one."""
    merges = []
    while pairs := Counter(pair for symbols in split.values() for pair in pairwise(symbols)):
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        merges.append(best)
        split = {word: _merge(symbols, best) for word, symbols in split.items()}
    return merges


def _merge(symbols: list[str], pair: tuple[str, str]) -> list[str]:
    merged: list[str] = []
    for symbol in symbols:
        if merged and (merged[-1], symbol) == pair:
            merged[-1] += symbol
        else:
            merged.append(symbol)
    return merged


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """An untrained text encoder, hidden states (batch, 24, 128)."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=TEXT_WIDTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def token_ids(tokenizer: CLIPTokenizer, captions: list[str]) -> torch.Tensor:
    """Padded token ids (captions, 24)."""
    return tokenizer(
        captions, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt"
    ).input_ids


@torch.no_grad()
def settle_identifiers(text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer) -> None:
    """Gives the identifiers, never seen in training, embeddings spread like those of the strange words."""
    table = text_encoder.get_input_embeddings().weight
    strange = table[tokenizer.convert_tokens_to_ids([word + WORD_END for word in STRANGE_WORDS])]
    noise = torch.randn(len(IDENTIFIERS), table.shape[1], generator=torch.Generator().manual_seed(0))
    rows = tokenizer.convert_tokens_to_ids([word + WORD_END for word in IDENTIFIERS])
    table[rows] = strange.mean(0) + strange.std(0) * noise.to(table.device)
