"""The image sets of a run as its page shows them: thumbnails by prompt, with their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delora_eval.pages.thumbnails import Thumbnail, make_thumbnails
from delora_eval.scoring.inputs.image_sets import JudgedImage, JudgedSet, read_shown_sets
from delora_eval.scoring.record.score_lines import ScoreLine
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import TrainConfig

SMALL_THUMBNAIL = 0.6
"""Images of all but the main set are this much smaller: a page with ten sets must still open on a phone."""


@dataclass(frozen=True, kw_only=True)
class Shown:
    """One image on the page."""

    thumbnail: Thumbnail
    seed: int


@dataclass(frozen=True, kw_only=True)
class PromptRow:
    """The images of one prompt and their scores."""

    index: int
    prompt: str
    images: tuple[Shown, ...]
    scores: dict[str, float]
    """{score: value} under the page's protocol."""


@dataclass(frozen=True, kw_only=True)
class SetView:
    """One image set."""

    name: str
    rows: tuple[PromptRow, ...]
    num_images: int
    strength: float | None
    is_base: bool
    step: int | None
    average: str | None
    others: int
    names_subject: bool
    sampling: dict[str, Any]
    totals: dict[str, ScoreLine]
    """{score: its line} under the page's protocol."""

    @property
    def title(self) -> str:
        """What the set is, in words."""
        if self.is_base:
            return "The base model, asked the same" if self.names_subject else "The base model's own class images"
        if not self.names_subject:
            return "The class, without naming the subject"
        parts = ["The subject in new contexts"]
        parts += [f"the average {self.average}"] if self.average else []
        parts += [f"with {self.others} more adapters"] if self.others else []
        parts += [f"after step {self.step:,}"] if self.step is not None else []
        parts += [f"strength {self.strength:g}"] if self.strength not in (None, 1) else []
        return ", ".join(parts)

    @property
    def num_shown(self) -> int:
        return sum(len(row.images) for row in self.rows)


def read_set_views(
    run: RunFolder,
    config: TrainConfig,
    lines: list[ScoreLine],
    protocol: Sequence[str],
    images_per_prompt: int,
    thumbnail_px: int,
) -> tuple[SetView, ...]:
    """Returns the image sets of a run, the main set first; `protocol` is the one whose scores are shown, if any."""
    shown = [line for line in lines if line.protocol in protocol]
    sets = read_shown_sets(run, subject=config.data.subject or "", identifier=config.data.identifier)
    sets.sort(key=_importance)
    sizes = [thumbnail_px] + [round(thumbnail_px * SMALL_THUMBNAIL)] * len(sets)
    return tuple(
        _view(images, [line for line in shown if line.set == images.name], images_per_prompt, size)
        for images, size in zip(sets, sizes, strict=False)
    )


def _view(images: JudgedSet, lines: list[ScoreLine], images_per_prompt: int, thumbnail_px: int) -> SetView:
    sampling = {key: value for key, value in images.images[0].settings if key != "base"}
    return SetView(
        name=images.name,
        rows=_read_rows(images.images, lines, images_per_prompt, thumbnail_px),
        num_images=len(images.images),
        strength=images.strength,
        is_base=images.is_base,
        step=images.step,
        average=images.average,
        others=images.others,
        names_subject=_names_subject(images),
        sampling={
            key: value for key, value in (sampling | {"adapter": images.adapter}).items() if value not in (None, "")
        },
        totals={line.score: line for line in lines if line.prompt is None and line.subject},
    )


def _names_subject(images: JudgedSet) -> bool:
    return any(image.names_subject for image in images.images)


def _importance(images: JudgedSet) -> tuple:
    """The subject before class prompts, the adapter before the base, full strength first, as trained before averages
    and sums, late before early."""
    is_full = images.strength is None or images.strength == 1
    step = float("inf") if images.step is None else images.step
    is_plain = images.average is None and not images.others
    return not _names_subject(images), images.is_base, not is_full, not is_plain, -step, -len(images.images)


def _read_rows(
    images: Sequence[JudgedImage], lines: list[ScoreLine], images_per_prompt: int, thumbnail_px: int
) -> tuple[PromptRow, ...]:
    scores: dict[str, dict[str, float]] = {}
    for line in lines:
        if line.prompt is not None and line.value is not None:
            scores.setdefault(line.prompt, {})[line.score] = line.value
    by_prompt: dict[tuple[int, str], list[JudgedImage]] = {}
    for image in images:
        by_prompt.setdefault((image.prompt_index, image.prompt), []).append(image)
    chosen = {key: sorted(group, key=lambda image: image.seed)[:images_per_prompt] for key, group in by_prompt.items()}
    thumbnails = iter(make_thumbnails([image.file for group in chosen.values() for image in group], thumbnail_px))
    return tuple(
        PromptRow(
            index=index,
            prompt=prompt,
            images=tuple(Shown(thumbnail=next(thumbnails), seed=image.seed) for image in group),
            scores=scores.get(prompt, {}),
        )
        for (index, prompt), group in chosen.items()
    )
