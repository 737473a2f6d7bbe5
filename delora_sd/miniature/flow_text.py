"""The flowing miniature's Qwen2Tokenizer and Qwen3 text encoder: of klein's kind, a word of the world is one token."""

import torch
from tokenizers.pre_tokenizers import ByteLevel
from transformers import Qwen2Tokenizer, Qwen3Config, Qwen3ForCausalLM

from delora_sd.miniature.text import merges_until_whole
from delora_sd.miniature.world.captions import IDENTIFIERS, STRANGE_WORDS, vocabulary

MAX_TOKENS = 18
"""The longest benchmark prompt with identifier and "a photo of" has 16 words, and the template adds its end."""
TEXT_WIDTH = 64
CONDITIONING_LAYERS = (1, 2, 3)
"""Hidden states that are stacked, of 4 layers: as klein's 9, 18, 27 of 36."""
SPACE = "Ġ"
"""How a byte-level vocabulary writes the space before a word."""
PAD, END = "<|endoftext|>", "<|im_end|>"
CHAT_TEMPLATE = "{{ messages[0]['content'] }}<|im_end|>"


def new_tokenizer() -> Qwen2Tokenizer:
    """A tokenizer whose merges make each vocabulary word one token; other words fall back to letters."""
    words = [spelled for word in vocabulary() for spelled in (word, SPACE + word)]
    merges = merges_until_whole({word: list(word) for word in words})
    tokens = list(dict.fromkeys([*sorted(ByteLevel.alphabet()), *("".join(pair) for pair in merges), PAD, END]))
    return Qwen2Tokenizer(
        vocab={token: index for index, token in enumerate(tokens)},
        merges=merges,
        unk_token=PAD,
        eos_token=END,
        pad_token=PAD,
        model_max_length=MAX_TOKENS,
        chat_template=CHAT_TEMPLATE,
    )


def new_text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen3ForCausalLM:
    """An untrained text encoder; three of its hidden states stacked are (batch, 18, 192)."""
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=TEXT_WIDTH,
        intermediate_size=2 * TEXT_WIDTH,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=MAX_TOKENS,
        initializer_range=0.1,
        tie_word_embeddings=True,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        text_encoder_out_layers=list(CONDITIONING_LAYERS),
    )
    return Qwen3ForCausalLM(config)


def token_ids(tokenizer: Qwen2Tokenizer, captions: list[str]) -> torch.Tensor:
    """Padded token ids (captions, 18), each caption in the chat template."""
    texts = [tokenizer.apply_chat_template([{"role": "user", "content": text}], tokenize=False) for text in captions]
    return tokenizer(texts, padding="max_length", truncation=True, max_length=MAX_TOKENS, return_tensors="pt").input_ids


@torch.no_grad()
def settle_identifiers(text_encoder: Qwen3ForCausalLM, tokenizer: Qwen2Tokenizer) -> None:
    """Gives the identifiers, never seen in training, embeddings spread like those of the strange words."""
    table = text_encoder.get_input_embeddings().weight
    strange = table[tokenizer.convert_tokens_to_ids([SPACE + word for word in STRANGE_WORDS])]
    for spelled in (SPACE, ""):
        noise = torch.randn(len(IDENTIFIERS), table.shape[1], generator=torch.Generator().manual_seed(0))
        rows = tokenizer.convert_tokens_to_ids([spelled + word for word in IDENTIFIERS])
        table[rows] = strange.mean(0) + strange.std(0) * noise.to(table.device)
