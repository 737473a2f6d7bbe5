"""Instructions with their answers: loaded, parted into trained and held out, turned into tokens."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from delora_sd.config.text import read_json_text
from delora_sd.errors import UserError
from delora_sd.language.data.packages import need
from delora_sd.language.miniature.instructions import toy_instructions
from delora_sd.language.settings import LanguageDataConfig
from delora_sd.language.templates import alpaca_prompt

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MINIATURE = "miniature"
NUM_TOY_RECORDS = 1400
SPLIT_SEED = 42
"""Of the authors' prepare_alpaca.py; every run holds out the same records."""
IGNORED = -100
"""A label that counts in no loss."""

Record = dict[str, str]


def load_instructions(data: LanguageDataConfig, *, is_offline: bool) -> dict[str, list[Record]]:
    """Returns {train, held_out}: torch's `random_split` with the held-out part behind, as the authors'.

    Raises:
        UserError: not to be had, no such records, or fewer than are to be held out.
    """
    records = _load(data.instructions, is_offline=is_offline)
    if not 0 < data.held_out < len(records):
        raise UserError(f"data.held_out: {data.held_out}; expected 1 to {len(records) - 1} of {len(records)} records")
    order = torch.randperm(len(records), generator=torch.Generator().manual_seed(SPLIT_SEED)).tolist()
    num_train = len(records) - data.held_out
    return {"train": [records[i] for i in order[:num_train]], "held_out": [records[i] for i in order[num_train:]]}


def encode_record(
    record: Record, tokenizer: "PreTrainedTokenizerBase", *, max_tokens: int, loss_on: str
) -> dict[str, list[int]]:
    """Returns the tokens of prompt, answer and end token, cut to `max_tokens`, and the labels the loss counts.

    The answer follows the prompt directly. All tokens are labels, or only those behind the prompt's.
    """
    prompt = alpaca_prompt(record)
    ids = tokenizer(prompt + record["output"])["input_ids"]
    if ids[-1:] != [tokenizer.eos_token_id]:
        ids = [*ids, tokenizer.eos_token_id]
    ids = ids[:max_tokens]
    labels = list(ids)
    if loss_on == "answer":
        num_prompt = _shared_start(tokenizer(prompt)["input_ids"], ids)
        labels[:num_prompt] = [IGNORED] * num_prompt
    return {"input_ids": ids, "attention_mask": [1] * len(ids), "labels": labels}


def collate(rows: list[dict[str, list[int]]], pad_token_id: int) -> dict[str, torch.Tensor]:
    """Returns a batch padded on the right; padding is neither seen nor counted."""
    longest = max(len(row["input_ids"]) for row in rows)
    fills = {"input_ids": pad_token_id, "attention_mask": 0, "labels": IGNORED}
    return {
        name: torch.tensor([row[name] + [fill] * (longest - len(row[name])) for row in rows])
        for name, fill in fills.items()
    }


def _shared_start(prompt: list[int], ids: list[int]) -> int:
    """How many tokens of the whole are the prompt's alone: the last may have grown into the answer."""
    pairs = zip(prompt, ids, strict=False)
    return next((index for index, (ours, theirs) in enumerate(pairs) if ours != theirs), min(len(prompt), len(ids)))


def _load(source: str, *, is_offline: bool) -> list[Record]:
    if source == MINIATURE:
        return toy_instructions(NUM_TOY_RECORDS)
    path = Path(source).expanduser()
    if path.suffix in (".json", ".jsonl") or source.startswith(("/", "~", ".")):
        return _check(_read_file(path), source)
    datasets = need("datasets")
    try:
        config = datasets.DownloadConfig(local_files_only=is_offline)
        return _check(list(datasets.load_dataset(source, split="train", download_config=config)), source)
    except UserError:
        raise
    except Exception as error:  # the library raises many kinds; all mean "not there"
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"data.instructions={source}: not to be had ({reason})") from None


def _read_file(path: Path) -> Any:
    try:
        return read_json_text(path)
    except FileNotFoundError:
        raise UserError(f"data.instructions: {path} does not exist") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"data.instructions: {path} is not valid JSON ({error})") from None


def _check(records: Any, source: str) -> list[Record]:
    if not isinstance(records, list) or not records:
        raise UserError(f"data.instructions={source}: expected a list of records")
    for number, record in enumerate(records):
        is_record = isinstance(record, dict) and all(
            isinstance(record.get(key), str) for key in ("instruction", "output")
        )
        if not is_record or not isinstance(record.get("input") or "", str):
            raise UserError(
                f"data.instructions={source}: record {number} needs the texts instruction, output, perhaps input"
            )
    return [{key: record.get(key) or "" for key in ("instruction", "input", "output")} for record in records]
