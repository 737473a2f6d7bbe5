"""The miniature's tokenizers: byte-level BPE, so that any text can be written; a toy word is one token."""

import random
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from delora_sd.language.miniature.build.corpus import draw_document
from delora_sd.language.miniature.instructions import toy_instructions
from delora_sd.language.templates import alpaca_prompt

VOCABULARY = 1280
MAX_TOKENS = 256
SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def train_tokenizer() -> Tokenizer:
    """Returns the BPE of the corpus and the instruction template."""
    rng = random.Random("tokens")
    texts = [" ".join(draw_document(rng)) for _ in range(4000)]
    texts += [alpaca_prompt(record) + record["output"] for record in toy_instructions(600)]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def save_encoder_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """Pairs as RoBERTa writes them: <s> A </s></s> B </s>."""
    marks = [(token, tokenizer.token_to_id(token)) for token in ("<s>", "</s>")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=marks
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=MAX_TOKENS - 2,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        unk_token="<unk>",
        pad_token="<pad>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)


def save_causal_tokenizer(tokenizer: Tokenizer, folder: Path) -> None:
    """As LLaMA's: a start token before the text, and no pad token."""
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A $B", special_tokens=[("<s>", tokenizer.token_to_id("<s>"))]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=2 * MAX_TOKENS,
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
