"""Alpaca's template byte by byte, what the loss counts, who is held out."""

import hashlib
import json

import pytest
import torch
from torch.utils.data import random_split

from delora_sd.errors import UserError
from delora_sd.language.data.instructions import IGNORED, collate, encode_record, load_instructions
from delora_sd.language.models.bases import check_max_tokens, find_language_base, load_tokenizer
from delora_sd.language.settings import LanguageDataConfig, LanguageModelConfig
from delora_sd.language.templates import alpaca_prompt

RECORD = {"instruction": "Name {input}.", "input": "", "output": "this big dog"}


def test_the_template_is_alpacas_byte_by_byte():
    with_input = alpaca_prompt({"instruction": "Do {this}", "input": "a\nb", "output": "x"})
    assert with_input.encode() == (
        b"Below is an instruction that describes a task, paired with an input that provides further context. Write a "
        b"response that appropriately completes the request.\n\n### Instruction:\nDo {this}\n\n### Input:\na\nb\n\n"
        b"### Response:"
    )
    assert alpaca_prompt(RECORD).encode() == (
        b"Below is an instruction that describes a task. Write a response that appropriately completes the request.\n\n"
        b"### Instruction:\nName {input}.\n\n### Response:"
    )
    empty = alpaca_prompt({"instruction": "", "input": "", "output": ""})
    assert hashlib.sha256(empty.encode()).hexdigest() == hashlib.sha256(EMPTY).hexdigest()


EMPTY = (
    b"Below is an instruction that describes a task. Write a response that appropriately completes the request."
    b"\n\n### Instruction:\n\n\n### Response:"
)


@pytest.fixture(scope="module")
def tokenizer(tiny_causal):
    return load_tokenizer(find_language_base(LanguageModelConfig(base=str(tiny_causal)), is_causal=True))


def test_the_answer_follows_the_prompt_directly_and_ends(tokenizer):
    row = encode_record(RECORD, tokenizer, max_tokens=256, loss_on="all")
    assert row["labels"] == row["input_ids"] and row["attention_mask"] == [1] * len(row["input_ids"])
    text = tokenizer.decode(row["input_ids"])
    assert text.startswith("<s>") and text.endswith("### Response:this big dog</s>")


def test_the_loss_can_count_the_answer_alone(tokenizer):
    row = encode_record(RECORD, tokenizer, max_tokens=256, loss_on="answer")
    counted = [token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != IGNORED]
    assert tokenizer.decode(counted) == "this big dog</s>"


def test_long_texts_are_cut_and_lose_their_end(tokenizer):
    row = encode_record(RECORD | {"output": "dog " * 400}, tokenizer, max_tokens=256, loss_on="all")
    assert len(row["input_ids"]) == 256 and row["input_ids"][-1] != tokenizer.eos_token_id


def test_a_tokenizer_without_a_pad_token_pads_with_its_end_and_hides_it(tokenizer):
    assert tokenizer.pad_token == tokenizer.eos_token
    rows = [
        {"input_ids": [4, 2], "attention_mask": [1, 1], "labels": [4, 2]},
        {k: [7] for k in ("input_ids", "labels")},
    ]
    rows[1]["attention_mask"] = [1]
    batch = collate(rows, tokenizer.pad_token_id)
    assert batch["input_ids"].tolist() == [[4, 2], [7, tokenizer.eos_token_id]]
    assert batch["attention_mask"].tolist() == [[1, 1], [1, 0]] and batch["labels"].tolist() == [[4, 2], [7, IGNORED]]


def save(path, records):
    path.write_text(json.dumps(records))
    return LanguageDataConfig(instructions=str(path), held_out=20)


def test_the_held_out_records_are_those_of_torchs_random_split(tmp_path):
    records = [{"instruction": str(number), "output": "x"} for number in range(100)]
    found = load_instructions(save(tmp_path / "alpaca.json", records), is_offline=True)
    train, held_out = random_split(range(100), [80, 20], generator=torch.Generator().manual_seed(42))
    assert [int(record["instruction"]) for record in found["train"]] == list(train)
    assert [int(record["instruction"]) for record in found["held_out"]] == list(held_out)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([{"instruction": "a"}] * 40, r"record 0 needs the texts instruction, output"),
        ({"instruction": "a"}, r"expected a list of records"),
        ([{"instruction": "a", "output": "b"}] * 10, r"data.held_out: 20; expected 1 to 9 of 10 records"),
    ],
)
def test_records_that_are_none_are_refused(tmp_path, records, message):
    with pytest.raises(UserError, match=message):
        load_instructions(save(tmp_path / "alpaca.json", records), is_offline=True)


def test_more_tokens_than_the_model_takes_are_refused(tiny_encoder):
    base = find_language_base(LanguageModelConfig(base=str(tiny_encoder)), is_causal=False)
    check_max_tokens(base, 64)  # 66 positions, of which RoBERTa never uses the first two
    with pytest.raises(UserError, match=r"tuning.max_tokens: 65; .* takes 8 to 64 tokens"):
        check_max_tokens(base, 65)


def test_a_gated_model_says_what_to_do(monkeypatch):
    import huggingface_hub

    class GatedRepoError(Exception):
        pass

    def refuse(*_, **__):
        raise GatedRepoError("401")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    with pytest.raises(
        UserError, match=r"meta-llama/Llama-2-7b-hf: .*GatedRepoError.*accept its licence, then `hf auth"
    ):
        find_language_base(LanguageModelConfig(base="meta-llama/Llama-2-7b-hf"), is_causal=True)


def test_a_model_that_brings_code_of_its_own_is_refused_and_nobody_is_asked(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "mine", "auto_map": {"AutoConfig": "code.Config"}}')
    with pytest.raises(UserError, match=r"no language model of transformers \(model_type 'mine'\)"):
        find_language_base(LanguageModelConfig(base=str(tmp_path)), is_causal=True)


def test_a_folder_of_pickles_is_refused(tiny_encoder, tmp_path):
    (tmp_path / "config.json").write_text((tiny_encoder / "config.json").read_text())
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(UserError, match=r"no .safetensors weights; pickles are not read"):
        find_language_base(LanguageModelConfig(base=str(tmp_path)), is_causal=False)
