"""Builds the language miniature: `python -m delora_sd.language.miniature.build --out DIR --work-dir DIR`.

Trains a small RoBERTa (masked words) and a small LLaMA (next word) on the toy language's documents: 15 CPU minutes.
To resume, run the same command again; `--stop-at STEP` ends this visit early.
"""

import argparse
import random
from pathlib import Path

import torch
from tokenizers import Tokenizer
from transformers import (
    AutoTokenizer,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    RobertaConfig,
    RobertaForMaskedLM,
)

from delora_sd.language.miniature.build.corpus import TELLING, draw_document
from delora_sd.language.miniature.build.tokens import (
    MAX_TOKENS,
    save_causal_tokenizer,
    save_encoder_tokenizer,
    train_tokenizer,
)
from delora_sd.language.miniature.build.training import Plan, train

WIDTH, LAYERS, HEADS, INNER = 96, 4, 4, 256
BATCH = 48
NUM_STEPS = {"encoder": 1900, "causal": 800}
LR = 3e-3
HIDDEN_SHARE, HIDDEN_TELLING_SHARE = 0.2, 0.6
IGNORED = -100


def build_encoder(vocabulary: Tokenizer, folder: Path, plan: Plan) -> bool:
    """Writes encoder/: RobertaForMaskedLM, fp16. Returns False while steps are left."""
    save_encoder_tokenizer(vocabulary, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    torch.manual_seed(0)
    model = RobertaForMaskedLM(
        RobertaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=INNER, max_position_embeddings=MAX_TOKENS, type_vocab_size=1, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )  # fmt: skip
    telling = torch.tensor([tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in TELLING])

    def batch(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        first, second = zip(*_documents(f"encoder/{step}"), strict=True)
        rows = [tokenizer(text, more or None) for text, more in zip(first, second, strict=True)]
        encoded = tokenizer.pad(rows)
        ids, mask = torch.tensor(encoded["input_ids"]), torch.tensor(encoded["attention_mask"])
        share = torch.full(ids.shape, HIDDEN_SHARE)
        share[torch.isin(ids, telling)] = HIDDEN_TELLING_SHARE
        share[ids < len(tokenizer.all_special_tokens)] = 0.0
        hidden = torch.rand(ids.shape, generator=generator) < share
        labels = torch.where(hidden, ids, IGNORED)
        return {"input_ids": ids.masked_fill(hidden, tokenizer.mask_token_id), "attention_mask": mask, "labels": labels}

    return _finish(model, train(plan, model, batch, print), folder)


def build_causal(vocabulary: Tokenizer, folder: Path, plan: Plan) -> bool:
    """Writes causal/: LlamaForCausalLM, fp16. Returns False while steps are left."""
    save_causal_tokenizer(vocabulary, folder)
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, num_hidden_layers=LAYERS, num_attention_heads=HEADS,
            intermediate_size=INNER, max_position_embeddings=2 * MAX_TOKENS, tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip

    def batch(step: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        texts = [f"{first} {second}".strip() + tokenizer.eos_token for first, second in _documents(f"causal/{step}")]
        rows = [torch.tensor(ids) for ids in tokenizer(texts)["input_ids"]]
        ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=tokenizer.eos_token_id)
        lengths = torch.tensor([len(row) for row in rows])
        mask = (torch.arange(ids.shape[1]) < lengths[:, None]).long()
        return {"input_ids": ids, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, IGNORED)}

    return _finish(model, train(plan, model, batch, print), folder)


def _documents(name: str) -> list[tuple[str, str]]:
    rng = random.Random(name)
    return [draw_document(rng) for _ in range(BATCH)]


def _finish(model: PreTrainedModel, is_done: bool, folder: Path) -> bool:
    if is_done:
        model.half().save_pretrained(folder, safe_serialization=True)
    return is_done


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--work-dir", type=Path, required=True)
    parser.add_argument("--model", choices=("encoder", "causal", "both"), default="both")
    parser.add_argument("--stop-at", type=int)
    given = parser.parse_args()
    vocabulary = train_tokenizer()
    for name, build in (("encoder", build_encoder), ("causal", build_causal)):
        if given.model in (name, "both"):
            steps = NUM_STEPS[name]
            plan = Plan(name=name, folder=given.work_dir, num_steps=steps, lr=LR, num_stop=given.stop_at or steps)
            print(f"{name}: {'done' if build(vocabulary, given.out / name, plan) else 'steps are left; run it again'}")


if __name__ == "__main__":
    main()
