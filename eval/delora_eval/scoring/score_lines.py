"""scores.jsonl read again: a line that `delora-sd score` did not write is refused, never guessed at."""

from pathlib import Path
from typing import Any

from delora_eval.scoring.measures.metrics import SCORES
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_lines

_FIELDS = {
    "set": str, "protocol": str, "inputs": str, "score": str, "encoder": str, "weights": str, "subject": str | None,
    "prompt": str | None, "prompt_index": int | None, "value": float | None, "pairs": int, "images": int,
    "random_weights": bool, "random_base": bool, "step": int | None, "strength": float | None,
}  # fmt: skip
_OPTIONAL = {
    "threshold": float | None,
    "candidates": int,
    "photos": int,
    "num_black": int,
    "base": str | None,
    "real_gap": float,
}


def read_scores(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of a scores.jsonl, [] before there is one.

    Raises:
        UserError: a line that lacks a field, holds another kind of value, or names a score nobody knows.
    """
    lines = read_lines(file)
    for number, line in enumerate(lines, start=1):
        source, advice = f"{file}, line {number}", "delete the file and score again"
        check_record(line, _FIELDS, _OPTIONAL, source=source, advice=advice)
        if line["score"] not in SCORES:
            raise UserError(
                f"{source}: unknown score '{line['score'][:40]}'{nearest_name(line['score'], list(SCORES))}"
            )
    return lines
