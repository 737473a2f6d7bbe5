"""scores.jsonl read again: a line that `delora-sd score` did not write is refused, never guessed at."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_eval.scoring.measures.metrics import SCORES, PairMean
from delora_sd.data.subjects import is_plain_name
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


@dataclass(frozen=True, kw_only=True)
class ScoreLine:
    """One number of scores.jsonl and what it depends on."""

    set: str
    """The image set, or the name under which the photos themselves are scored."""
    protocol: str
    score: str
    value: float | None
    """None: of no pairs."""
    pairs: int
    images: int
    photos: int | None
    subject: str | None
    """None: pooled over several subjects."""
    prompt: str | None
    """None: the total over all prompts."""
    text_number: int | None
    """The place of the prompt's text among those an image could belong to, `prompt_index` in the file. It is no
    `prompt_index` of images.jsonl: a benchmark prompt keeps its number when fewer were drawn."""
    encoder: str
    weights: str
    """Hash of the encoder's weights."""
    random_weights: bool
    """The encoder was untrained."""
    random_base: bool
    """The model that drew the images was untrained."""
    step: int | None
    strength: float | None
    base: str | None
    threshold: float | None
    candidates: int | None
    copies: tuple[dict[str, Any], ...]
    """Of `copy_risk`: the images it counts, each with the photo it repeats, as `groups` writes them."""

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> "ScoreLine":
        """Returns a checked record of scores.jsonl; what older files lack is None."""
        own = {name: record.get(name) for name in cls.__dataclass_fields__}
        return cls(**own | {"text_number": record["prompt_index"], "copies": tuple(record.get("copies", ()))})

    @property
    def is_random(self) -> bool:
        """True when the number means nothing."""
        return self.random_weights or self.random_base

    @property
    def is_base(self) -> bool:
        """True when the base model itself drew the images."""
        return self.strength == 0

    @property
    def mean(self) -> PairMean:
        return PairMean(value=float("nan") if self.value is None else self.value, pairs=self.pairs, images=self.images)


def read_score_lines(file: Path, *, with_prompts: bool = True) -> list[ScoreLine]:
    """Returns the lines of a scores.jsonl for whoever shows or compares them; Raises as `read_scores`.

    `with_prompts=False` leaves out the lines of single prompts, 25 for each total, which nobody then checks either.
    """
    return [ScoreLine.of(record) for record in read_scores(file, with_prompts=with_prompts)]


_OF_A_PROMPT = b'"prompt": "'
"""In the line of a single prompt; a total says null there. Inside a text the quotes are escaped."""


_COPY_FIELDS = {"image": str, "photo": str, "similarity": float, "threshold": float, "side": float}


def read_scores(file: Path, *, with_prompts: bool = True) -> list[dict[str, Any]]:
    """Returns the lines of a scores.jsonl, [] before there is one.

    Raises:
        UserError: a line that lacks a field, holds another kind of value, or names a score nobody knows.
    """
    lines = read_lines(file, without=None if with_prompts else _OF_A_PROMPT)
    for number, line in enumerate(lines, start=1):
        place = f"line {number}" if with_prompts else f"total {number}"
        source, advice = f"{file}, {place}", "delete the file and score again"
        check_record(line, _FIELDS, _OPTIONAL, source=source, advice=advice)
        if line["score"] not in SCORES:
            raise UserError(
                f"{source}: unknown score '{line['score'][:40]}'{nearest_name(line['score'], list(SCORES))}"
            )
        _check_copies(line.get("copies", []), source, advice)
    return lines


def _check_copies(copies: Any, source: str, advice: str) -> None:
    """Raises UserError when a listed copy is not an image's name beside a photo's: both are looked for in folders."""
    if not isinstance(copies, list):
        raise UserError(f"{source}: 'copies' is no list; {advice}")
    for copy in copies:
        check_record(copy, _COPY_FIELDS, source=f"{source}: a copy", advice=advice)
        for name in (copy["image"], copy["photo"]):
            if not is_plain_name(name):
                raise UserError(f"{source}: '{name[:80]}' is no name of an image in its folder; {advice}")
