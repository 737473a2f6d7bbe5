"""The picture sets of a run as its page shows them: thumbnails by prompt, with their scores."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from delora_eval.pages.thumbnails import Thumbnail, make_thumbnails
from delora_eval.scoring.picture_sets import Picture, PictureSet, read_shown_sets
from delora_eval.scoring.score_lines import ScoreLine
from delora_sd.files.run_folder import RunFolder
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
    totals: dict[str, ScoreLine]
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
    lines: list[ScoreLine],
    protocol: Sequence[str],
    pictures_per_prompt: int,
    thumbnail_px: int,
) -> tuple[SetView, ...]:
    """Returns the picture sets of a run, the main set first; `protocol` is the one whose scores are shown, if any."""
    shown = [line for line in lines if line.protocol in protocol]
    sets = read_shown_sets(run, subject=config.data.subject or "", identifier=config.data.identifier)
    sets.sort(key=_importance)
    sizes = [thumbnail_px] + [round(thumbnail_px * SMALL_THUMBNAIL)] * len(sets)
    return tuple(
        _view(pictures, [line for line in shown if line.set == pictures.name], pictures_per_prompt, size)
        for pictures, size in zip(sets, sizes, strict=False)
    )


def _view(pictures: PictureSet, lines: list[ScoreLine], pictures_per_prompt: int, thumbnail_px: int) -> SetView:
    sampling = {key: value for key, value in pictures.pictures[0].settings if key != "base"}
    return SetView(
        name=pictures.name,
        rows=_read_rows(pictures.pictures, lines, pictures_per_prompt, thumbnail_px),
        num_pictures=len(pictures.pictures),
        strength=pictures.strength,
        is_base=pictures.is_base,
        step=pictures.step,
        names_subject=_names_subject(pictures),
        sampling={
            key: value for key, value in (sampling | {"adapter": pictures.adapter}).items() if value not in (None, "")
        },
        totals={line.score: line for line in lines if line.prompt is None and line.subject},
    )


def _names_subject(pictures: PictureSet) -> bool:
    return any(picture.names_subject for picture in pictures.pictures)


def _importance(pictures: PictureSet) -> tuple:
    """The subject before class prompts, the adapter before the base, full strength first, late before early."""
    is_full = pictures.strength is None or pictures.strength == 1
    step = float("inf") if pictures.step is None else pictures.step
    return not _names_subject(pictures), pictures.is_base, not is_full, -step, -len(pictures.pictures)


def _read_rows(
    pictures: Sequence[Picture], lines: list[ScoreLine], pictures_per_prompt: int, thumbnail_px: int
) -> tuple[PromptRow, ...]:
    scores: dict[str, dict[str, float]] = {}
    for line in lines:
        if line.prompt is not None and line.value is not None:
            scores.setdefault(line.prompt, {})[line.score] = line.value
    by_prompt: dict[tuple[int, str], list[Picture]] = {}
    for picture in pictures:
        by_prompt.setdefault((picture.prompt_index, picture.prompt), []).append(picture)
    chosen = {
        key: sorted(group, key=lambda picture: picture.seed)[:pictures_per_prompt] for key, group in by_prompt.items()
    }
    thumbnails = iter(make_thumbnails([picture.file for group in chosen.values() for picture in group], thumbnail_px))
    return tuple(
        PromptRow(
            index=index,
            prompt=prompt,
            pictures=tuple(Shown(thumbnail=next(thumbnails), seed=picture.seed) for picture in group),
            scores=scores.get(prompt, {}),
        )
        for (index, prompt), group in chosen.items()
    )
