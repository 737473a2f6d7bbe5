"""What a run's page shows, read from its folder. Whatever is not there yet is None or empty, never an error."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delora_eval.metrics import SCORES
from delora_eval.picture_sets import LISTING, without_identifier
from delora_eval.protocols import Protocol, find_protocol
from delora_eval.score import REFERENCE_SET
from delora_eval.thumbnails import Thumbnail, make_thumbnails
from delora_sd.config import flatten, load_config
from delora_sd.data.subjects import load_subject
from delora_sd.errors import UserError
from delora_sd.run_folder import RunFolder, read_json, read_lines
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


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One setting of the run beside its default."""

    key: str
    value: Any
    default: Any

    @property
    def is_changed(self) -> bool:
        return self.value != self.default

    @property
    def text(self) -> str:
        return _show_value(self.value)

    @property
    def default_text(self) -> str:
        return _show_value(self.default)


@dataclass(frozen=True, kw_only=True)
class RunPage:
    """Everything the page of a run shows."""

    path: Path
    config: TrainConfig
    manifest: dict[str, Any]
    subject: str
    class_word: str
    photos: tuple[Thumbnail, ...]
    photos_problem: str
    """Why the photos cannot be shown; empty when they can."""
    sets: tuple[SetView, ...]
    """The main set first."""
    events: list[dict[str, Any]]
    layers: list[dict[str, Any]]
    """Events with one entry per adapted layer."""
    previews: tuple[tuple[str, tuple[Thumbnail, ...]], ...]
    """(step, pictures)."""
    lines: list[dict[str, Any]]
    """All score lines."""
    protocol: Protocol | None
    protocols: tuple[str, ...]
    settings: tuple[Setting, ...]
    failure: dict[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> SetView | None:
        return self.sets[0] if self.sets and self.sets[0].names_subject else None

    @property
    def others(self) -> tuple[SetView, ...]:
        return self.sets[1:] if self.main else self.sets

    @property
    def is_random(self) -> bool:
        """True when the base model or an encoder was never trained."""
        stamped = any(line["random_weights"] or line["random_base"] for line in self.lines)
        return stamped or bool(self.manifest.get("base", {}).get("random_weights"))

    @property
    def is_miniature(self) -> bool:
        return self.config.model.base == "miniature"

    def ceiling(self, score: str) -> float | None:
        """Returns the real-photo value of `dino` or `clip_i` under the page's protocol."""
        return next(
            (
                line["value"]
                for line in self.lines
                if line["set"] == REFERENCE_SET and line["score"] == f"real_{score}" and self.is_shown(line)
            ),
            None,
        )

    def label(self, score: str) -> str:
        """Returns the score's name under the page's protocol."""
        if self.protocol is None:
            return SCORES[score].label
        view = self.protocol.dino if SCORES[score].encoder == "dino" else self.protocol.clip
        return SCORES[score].label_for(view.encoder)

    def is_shown(self, line: dict[str, Any]) -> bool:
        return self.protocol is not None and line["protocol"] == self.protocol.name


def read_run_page(run: RunFolder, *, pictures_per_prompt: int, thumbnail_px: int) -> RunPage:
    """Returns what the page shows. Raises UserError only when the folder is no run folder."""
    if not run.config.exists():
        raise UserError(f"{run.path} is not a run folder: no config.yaml in it; train first")
    run.check_version()
    config = load_config(TrainConfig, [run.config], [])
    manifest = read_json(run.manifest) if run.manifest.exists() else {}
    lines = read_lines(run.scores)
    protocols = tuple(dict.fromkeys(line["protocol"] for line in lines))
    subject, photos, problem = _read_photos(config, manifest, thumbnail_px)
    events = read_lines(run.events)
    return RunPage(
        path=run.path,
        config=config,
        manifest=manifest,
        subject=subject["name"],
        class_word=subject["class_word"],
        photos=photos,
        photos_problem=problem,
        sets=_read_sets(run, config, lines, protocols[:1], pictures_per_prompt, thumbnail_px),
        events=[event for event in events if "loss" in event],
        layers=[event for event in events if "layers" in event],
        previews=_read_previews(run, thumbnail_px),
        lines=lines,
        protocol=find_protocol(protocols[0]) if protocols else None,
        protocols=protocols,
        settings=_read_settings(config),
        failure=read_json(run.path / "failed.json") if (run.path / "failed.json").exists() else {},
    )


def _read_photos(
    config: TrainConfig, manifest: dict[str, Any], thumbnail_px: int
) -> tuple[dict[str, str], tuple[Thumbnail, ...], str]:
    """Returns (name and class word, photos, why there are none)."""
    known = manifest.get("subject", {})
    names = {
        "name": known.get("name") or config.data.subject or Path(config.data.photos or "subject").name,
        "class_word": known.get("class_word") or config.data.class_word or "",
    }
    try:
        subject = load_subject(config.data)
    except UserError as error:
        return names, (), str(error)
    names = {"name": subject.name, "class_word": subject.class_word}
    return names, tuple(make_thumbnails(subject.photos, thumbnail_px)), ""


def _read_sets(
    run: RunFolder,
    config: TrainConfig,
    lines: list[dict[str, Any]],
    protocol: Sequence[str],
    pictures_per_prompt: int,
    thumbnail_px: int,
) -> tuple[SetView, ...]:
    listings = {path.parent: read_lines(path) for path in sorted(run.images.glob(f"*/{LISTING}"))}
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


def _read_previews(run: RunFolder, thumbnail_px: int) -> tuple[tuple[str, tuple[Thumbnail, ...]], ...]:
    """Returns (label, pictures) per step, from `previews/step-NNNNNN*/` or `previews/step-NNNNNN*.png`."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(run.previews.rglob("*.png")):
        label = file.parent.name if file.parent != run.previews else file.stem
        groups.setdefault(label.removeprefix("step-").split("-")[0].lstrip("0") or "0", []).append(file)
    size = round(thumbnail_px * SMALL_THUMBNAIL)
    return tuple((label, tuple(make_thumbnails(files, size))) for label, files in groups.items())


def _show_value(value: Any) -> str:
    """Returns the value as a settings file spells it."""
    if value is None or value == "":
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return ", ".join(map(_show_value, value)) or "none"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {_show_value(item)}" for key, item in value.items()) or "none"
    return str(value)


def _read_settings(config: TrainConfig) -> tuple[Setting, ...]:
    defaults = flatten(TrainConfig())
    return tuple(Setting(key=key, value=value, default=defaults[key]) for key, value in flatten(config).items())
