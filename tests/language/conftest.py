"""Tiny language models with random weights, in the layout of transformers, and the toy language's tokenizers."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, RobertaConfig, RobertaForMaskedLM

from delora_sd.language.miniature.build.tokens import save_causal_tokenizer, save_encoder_tokenizer, train_tokenizer

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}


@pytest.fixture(scope="session")
def vocabulary():
    return train_tokenizer()


@pytest.fixture(scope="session")
def tiny_encoder(tmp_path_factory, vocabulary):
    """A folder with a RoBERTa that was never trained."""
    folder = tmp_path_factory.mktemp("language") / "encoder"
    save_encoder_tokenizer(vocabulary, folder)
    torch.manual_seed(0)
    config = RobertaConfig(
        vocab_size=vocabulary.get_vocab_size(), max_position_embeddings=66, type_vocab_size=1, bos_token_id=0,
        pad_token_id=1, eos_token_id=2, hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **SIZES,
    )  # fmt: skip
    RobertaForMaskedLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory, vocabulary):
    """A folder with a LLaMA that was never trained; its tokenizer has no pad token."""
    folder = tmp_path_factory.mktemp("language") / "causal"
    save_causal_tokenizer(vocabulary, folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary.get_vocab_size(), max_position_embeddings=128, bos_token_id=0, eos_token_id=2, **SIZES
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
