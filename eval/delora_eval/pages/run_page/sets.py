"""The picture sets of a run as its page shows them: thumbnails by prompt, with their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_eval.pages.thumbnails import Thumbnail, make_thumbnails
from delora_eval.scoring.picture_sets import LISTING, without_identifier
from delora_sd.files.run_folder import RunFolder
from delora_sd.generation.requests import read_listing
from delora_sd.settings import TrainConfig

SMALL_THUMBNAIL = 0.6
"""Pictures of all but the main set are this much smaller: a page with ten sets must still open on a phone."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One picture on the page."""

    thumbnail: Thumbnail
    seed: int


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """The pictures of one prompt and their scores."""

    index: int
    prompt: str
    pictures: tuple[Shown, ...]
    scores: dict[str, float]
    """{score: value} under the page's protocol."""


@dataclass(frozen=True, kw_only=True)
class SetView:
    """One picture set."""

    name: str
    rows: tuple[PromptRow, ...]
    num_pictures: int
    strength: float | None
    is_base: bool
    step: int | None
    names_subject: bool
    sampling: dict[str, Any]
    totals: dict[str, dict[str, Any]]
    """{score: its line} under the page's protocol."""

    @property
    def title(self) -> str:
        """What the set is, in words."""
        if self.is_base:
            return "The base model, asked the same" if self.names_subject else "The base model's own class pictures"
        if not self.names_subject:
            return "The class, without naming the subject"
        parts = ["The subject in new contexts"]
        parts += [f"after step {self.step:,}"] if self.step is not None else []
        parts += [f"strength {self.strength:g}"] if self.strength not in (None, 1) else []
        return ", ".join(parts)

    @property
    def num_shown(self) -> int:
        return sum(len(row.pictures) for row in self.rows)


def read_set_views(
    run: RunFolder,
    config: TrainConfig,
    lines: list[dict[str, Any]],
    protocol: Sequence[str],
    pictures_per_prompt: int,
    thumbnail_px: int,
) -> tuple[SetView, ...]:
    """Returns the picture sets of a run, the main set first; `protocol` is the one whose scores are shown, if any."""
    listings = {path.parent: read_listing(path) for path in sorted(run.images.glob(f"*/{LISTING}"))}
    shown = [line for line in lines if line["protocol"] in protocol]
    views = []
    for folder, pictures in listings.items():
        if pictures:
            views.append((folder, pictures, _describe_set(folder.name, pictures, shown, config.data.identifier)))
    views.sort(key=lambda view: _importance(view[2]))
    sizes = [thumbnail_px] + [round(thumbnail_px * SMALL_THUMBNAIL)] * len(views)
    return tuple(
        SetView(**described, rows=_read_rows(folder, pictures, shown, described["name"], pictures_per_prompt, size))
        for (folder, pictures, described), size in zip(views, sizes, strict=False)
    )


def _describe_set(
    name: str, pictures: list[dict[str, Any]], lines: list[dict[str, Any]], identifier: str
) -> dict[str, Any]:
    first = pictures[0]
    prompts = [picture.get("prompt", "") for picture in pictures]
    return {
        "name": name,
        "num_pictures": len(pictures),
        "strength": first.get("strength"),
        "is_base": first.get("strength") == 0 and not first.get("extra_adapters"),
        "step": first.get("step"),
        "names_subject": any(without_identifier(prompt, identifier) != prompt for prompt in prompts),
        "sampling": {
            key: first[key]
            for key in ("num_inference_steps", "guidance", "negative_prompt", "size_px", "adapter")
            if first.get(key) not in (None, "")
        },
        "totals": {
            line["score"]: line for line in lines if line["set"] == name and line["prompt"] is None and line["subject"]
        },
    }


def _importance(described: dict[str, Any]) -> tuple:
    """The subject before class prompts, the adapter before the base, full strength first, late before early."""
    strength = described["strength"]
    is_full = strength is None or strength == 1
    step = float("inf") if described["step"] is None else described["step"]
    return not described["names_subject"], described["is_base"], not is_full, -step, -described["num_pictures"]


def _read_rows(
    folder: Path,
    pictures: list[dict[str, Any]],
    lines: list[dict[str, Any]],
    name: str,
    pictures_per_prompt: int,
    thumbnail_px: int,
) -> tuple[PromptRow, ...]:
    scores: dict[str, dict[str, float]] = {}
    for line in lines:
        if line["set"] == name and line["prompt"] is not None and line["value"] is not None:
            scores.setdefault(line["prompt"], {})[line["score"]] = line["value"]
    by_prompt: dict[tuple[int, str], list[dict[str, Any]]] = {}
    for picture in pictures:
        by_prompt.setdefault((picture.get("prompt_index", 0), picture.get("prompt", "")), []).append(picture)
    chosen = {
        key: sorted(group, key=lambda picture: picture.get("seed", 0))[:pictures_per_prompt]
        for key, group in by_prompt.items()
    }
    files = [folder / picture["file"] for group in chosen.values() for picture in group]
    thumbnails = iter(make_thumbnails(files, thumbnail_px))
    return tuple(
        PromptRow(
            index=index,
            prompt=prompt,
            pictures=tuple(Shown(thumbnail=next(thumbnails), seed=picture.get("seed", 0)) for picture in group),
            scores=scores.get(prompt, {}),
        )
        for (index, prompt), group in chosen.items()
    )
