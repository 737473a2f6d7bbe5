"""Which images are wanted, under which names, and which of them are there already. No model, no pixels."""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

from delora_sd.data.prompts import Prompt
from delora_sd.data.subjects import is_plain_name
from delora_sd.diffusion.families.family import Base
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_lines, write_lines

LISTING = "images.jsonl"
"""One line per finished image of a set."""

_IMAGE_FIELDS = {
    "prompt": str, "template": str, "prompt_index": int, "seed": int, "step": int | None, "strength": float | None,
    "adapter": str | None, "extra_adapters": dict, "num_inference_steps": int | None, "guidance": float | None,
    "negative_prompt": str | None, "size_px": int | None, "base": str | None, "random_weights": bool,
    "average": str | None,
}  # fmt: skip

NOTHING_MORE: Mapping[str, Any] = MappingProxyType({})

MAX_SLUG_LENGTH = 60

MAX_INFERENCE_STEPS = 1000
"""Stable Diffusion's noise schedule has no more."""


@dataclass(frozen=True, kw_only=True)
class SamplingSettings:
    """How an image is drawn; with adapter, prompt and seed it decides the image."""

    num_inference_steps: int
    guidance: float
    """1: the prompt alone; above: away from the negative prompt."""
    negative_prompt: str
    size_px: int
    solver: Literal["own", "ddim"] = "own"
    shape_px: tuple[int, int] | None = None
    """(height, width); none: a square of `size_px`."""

    @property
    def height_and_width(self) -> tuple[int, int]:
        return self.shape_px or (self.size_px, self.size_px)

    def facts(self) -> dict[str, Any]:
        """Returns what names a set. A field that comes later has a default, what was drawn without it, and counts only
        where it differs: images that were drawn before it existed keep their set."""
        return {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if field.default is MISSING or getattr(self, field.name) != field.default
        }


def check_sampling(section: str, *, num_inference_steps: int, guidance: float) -> None:
    """Raises UserError for numbers that make no image; `section` is "" or ends with a dot."""
    if not 1 <= num_inference_steps <= MAX_INFERENCE_STEPS:
        raise UserError(
            f"{section}num_inference_steps={num_inference_steps}: expected at least 1 and at most {MAX_INFERENCE_STEPS}"
        )
    if not (math.isfinite(guidance) and guidance >= 1):
        raise UserError(f"{section}guidance={guidance}: expected 1 (the prompt alone) or more; 7.5 is usual")


@dataclass(frozen=True, kw_only=True)
class ImageRequest:
    """One image that is wanted."""

    prompt: Prompt
    seed: int
    file: Path


@dataclass(frozen=True, kw_only=True)
class ImageSet:
    """Images of one prompt list, made alike: a folder and what its images have in common."""

    folder: Path
    facts: Mapping[str, Any]
    """The part of each image's line in images.jsonl that is the same for all."""

    @property
    def listing(self) -> Path:
        return self.folder / LISTING

    def record(self, request: ImageRequest) -> dict[str, Any]:
        """Returns the image's line in images.jsonl."""
        prompt = request.prompt
        own = {"file": request.file.name, "prompt": prompt.text, "template": prompt.template}
        return own | {"prompt_index": prompt.index, "seed": request.seed} | self.facts


def describe_set(
    images: Path,
    prompts: Sequence[Prompt],
    *,
    base: Base,
    precision: str,
    sampling: SamplingSettings,
    adapters: Mapping[str, float],
    step: int | None,
    average: str | None = None,
    more: Mapping[str, Any] = NOTHING_MORE,
) -> ImageSet:
    """Returns the set's folder in `images`, named by all that decides its images, and their common facts.

    Args:
        precision: Of the UNet: dtype and quantisation.
        adapters: {hash of the adapter's files: strength}, the main one first; those of strength 0 change nothing and
            do not count. None left: the base model's own images, named alike whatever run they were asked of.
        step: Of the checkpoint; none: the final adapter.
        average: Name of the main adapter among the run's averages; none: as trained.
        more: What else decides the images, such as the maps they are drawn on.
    """
    active = {adapter: strength for adapter, strength in adapters.items() if strength}
    main = next(iter(adapters), None)
    extra = {adapter: strength for adapter, strength in active.items() if adapter != main}
    decisive = {
        "adapters": sorted(active.items()),
        "base": base.fingerprint,
        "precision": precision,
        "prompts": [prompt.text for prompt in prompts],
        **sampling.facts(),
        **more,
    }
    which = [average or ""] + ([] if step is None else [f"step-{step:06d}"])
    label = ("-".join(filter(None, which)) or "final") if active else "base"
    facts = {
        "adapter": main if active else None,
        "step": step if active else None,
        "strength": active.get(main, 0.0) if main else 0.0,
        **sampling.facts(),
        "base": base.name,
        "random_weights": base.has_random_weights,
    }
    facts |= {"extra_adapters": extra} if extra else {}
    facts |= {"average": average} if active and average is not None else {}
    return ImageSet(folder=images / f"{label}-{_hash(decisive)}", facts=facts)


def plan_requests(folder: Path, prompts: Sequence[Prompt], seeds: Sequence[int]) -> list[ImageRequest]:
    """Returns every image of the set in a fixed order: all prompts of the first seed, then of the next.

    More seeds only append, so the images that are there keep their batches.
    """
    return [
        ImageRequest(prompt=prompt, seed=seed, file=folder / _file_name(prompt, seed))
        for seed in seeds
        for prompt in prompts
    ]


def read_listing(file: Path) -> list[dict[str, Any]]:
    """Returns the lines of an images.jsonl, [] before there are any; each has a prompt, its number and a seed.

    Raises:
        UserError: a line without an image, with an image elsewhere, or with a field of another kind.
    """
    records = [{"prompt": "", "prompt_index": 0, "seed": 0} | record for record in read_lines(file)]
    for number, record in enumerate(records, start=1):
        source = f"{file}, line {number}"
        check_record(record, {"file": str}, _IMAGE_FIELDS, source=source, advice="delete that line")
        name = record["file"]
        if not is_plain_name(name):
            raise UserError(f"{source}: '{name[:80]}' is not the name of an image in its folder; delete that line")
    return records


def finished_files(image_set: ImageSet) -> set[str]:
    """Returns the names of the images that are both listed and there, and forgets lines that lost their image."""
    records = read_listing(image_set.listing)
    present = [record for record in records if (image_set.folder / record["file"]).is_file()]
    if image_set.listing.exists():
        write_listing(image_set, present)  # also drops a line torn by a crash
    return {record["file"] for record in present}


def write_listing(image_set: ImageSet, records: Sequence[Mapping[str, Any]]) -> None:
    """Writes images.jsonl by seed and prompt: the same bytes however often the work was interrupted."""
    write_lines(image_set.listing, sorted(records, key=lambda record: (record["seed"], record["prompt_index"])))


def slug(text: str) -> str:
    """Returns the text as part of a file name: plain letters, digits and dashes only."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:MAX_SLUG_LENGTH].strip("-")


def _file_name(prompt: Prompt, seed: int) -> str:
    return "-".join(part for part in (f"{prompt.index:02d}", slug(prompt.text), f"s{seed}") if part) + ".png"


def _hash(value: Any) -> str:
    """Returns 8 hexadecimal digits: the chance that two of a thousand sets collide is one in 8,000."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode("utf-8")).hexdigest()[:8]
