"""Alpaca's prompt, byte by byte, as ETHER's prepare_alpaca.py writes it: no newline before the answer."""

from collections.abc import Mapping

WITH_INPUT = (
    "Below is an instruction that describes a task, paired with an input that provides further context. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Input:\n{input}\n\n### Response:"
)
WITHOUT_INPUT = (
    "Below is an instruction that describes a task. "
    "Write a response that appropriately completes the request.\n\n"
    "### Instruction:\n{instruction}\n\n### Response:"
)


def alpaca_prompt(record: Mapping[str, str]) -> str:
    """Returns the prompt of a record with `instruction` and perhaps `input`; it ends without a newline."""
    if record.get("input"):
        return WITH_INPUT.format(instruction=record["instruction"], input=record["input"])
    return WITHOUT_INPUT.format(instruction=record["instruction"])
