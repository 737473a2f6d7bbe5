"""What a run's page shows, read from its folder. Whatever is not there yet is None or empty, never an error."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delora_eval.pages.run_page.product import Drawn, not_loaded, read_product
from delora_eval.pages.run_page.sets import SMALL_THUMBNAIL, SetView, read_set_views
from delora_eval.pages.thumbnails import Thumbnail, make_thumbnails
from delora_eval.scoring.judges.protocols import Protocol, find_protocol
from delora_eval.scoring.measures.metrics import SCORES
from delora_eval.scoring.record.score_lines import ScoreLine, read_score_lines
from delora_eval.scoring.score import REFERENCE_SET
from delora_sd.config.deciding import read_run_settings
from delora_sd.config.load import flatten
from delora_sd.data.recorded import recognise_subject
from delora_sd.data.subjects import find_subject, load_subject
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import TrainConfig


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
class CopyView:
    """An image beside the trained photo that it repeats."""

    image: Thumbnail
    photo: Thumbnail
    name: str
    """The image's file."""
    photo_name: str
    text: str
    """What is repeated, and how like it is."""


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
    """(step, images)."""
    lines: list[ScoreLine]
    """All score lines."""
    protocol: Protocol | None
    protocols: tuple[str, ...]
    settings: tuple[Setting, ...]
    failure: dict[str, Any] = field(default_factory=dict)
    copies: tuple[CopyView, ...] = ()
    """Images that repeat a trained photo, where the copy risk was scored."""
    product: tuple[Drawn, ...] = ()
    """One caption as the trained adapter draws it and as other tools draw it with the exported files."""
    not_loaded: tuple[str, ...] = ()
    """Exported files that a tool could not load."""

    @property
    def main(self) -> SetView | None:
        return self.sets[0] if self.sets and self.sets[0].names_subject else None

    @property
    def others(self) -> tuple[SetView, ...]:
        return self.sets[1:] if self.main else self.sets

    @property
    def is_random(self) -> bool:
        """True when the base model or an encoder was never trained."""
        stamped = any(line.is_random for line in self.lines)
        return stamped or bool(self.manifest.get("base", {}).get("random_weights"))

    @property
    def is_miniature(self) -> bool:
        return self.config.model.base == "miniature"

    def ceiling(self, score: str) -> float | None:
        """Returns the real-photo value of `dino` or `clip_i` under the page's protocol."""
        return next(
            (
                line.value
                for line in self.lines
                if line.set == REFERENCE_SET and line.score == f"real_{score}" and self.is_shown(line)
            ),
            None,
        )

    def label(self, score: str) -> str:
        """Returns the score's name under the page's protocol."""
        if self.protocol is None:
            return SCORES[score].label
        view = self.protocol.dino if SCORES[score].encoder == "dino" else self.protocol.clip
        return SCORES[score].label_for(view.encoder)

    def is_shown(self, line: ScoreLine) -> bool:
        return self.protocol is not None and line.protocol == self.protocol.name


def read_run_page(run: RunFolder, *, images_per_prompt: int, thumbnail_px: int) -> RunPage:
    """Returns what the page shows. Raises UserError only when the folder is no run folder."""
    if not run.config.exists():
        raise UserError(f"{run.path} is not a run folder: no config.yaml in it; train first")
    run.check_version()
    config = read_run_settings(run.config)
    manifest = run.read_manifest()
    lines = read_score_lines(run.scores)
    protocols = tuple(dict.fromkeys(line.protocol for line in lines))
    subject, photos, problem = _read_photos(run, config, thumbnail_px)
    events = run.read_events()
    return RunPage(
        path=run.path,
        config=config,
        manifest=manifest,
        subject=subject["name"],
        class_word=subject["class_word"],
        photos=photos,
        photos_problem=problem,
        sets=read_set_views(run, config, lines, protocols[:1], images_per_prompt, thumbnail_px),
        events=[event for event in events if "loss" in event],
        layers=[event for event in events if "layers" in event],
        previews=_read_previews(run, thumbnail_px),
        lines=lines,
        protocol=find_protocol(protocols[0]) if protocols else None,
        protocols=protocols,
        settings=_read_settings(config),
        failure=run.read_failure(),
        product=read_product(run, manifest, thumbnail_px),
        not_loaded=not_loaded(manifest),
        copies=_read_copies(run, config, lines, protocols[:1], thumbnail_px),
    )


def _read_photos(
    run: RunFolder, config: TrainConfig, thumbnail_px: int
) -> tuple[dict[str, str], tuple[Thumbnail, ...], str]:
    """Returns (name and class word, the photos of the training, why there are none)."""
    known = run.read_manifest().get("subject", {})
    names = {
        "name": known.get("name") or config.data.subject or Path(config.data.photos or "subject").name,
        "class_word": known.get("class_word") or config.data.class_word or "",
    }
    try:
        subject = recognise_subject(run, load_subject(config.data), advice="those of the training are not shown")
    except UserError as error:
        return names, (), str(error)
    names = {"name": subject.name, "class_word": subject.class_word}
    photos = (*subject.photos, *subject.held_out)
    return names, tuple(make_thumbnails(photos, thumbnail_px)), ""


def _read_copies(
    run: RunFolder, config: TrainConfig, lines: list[ScoreLine], protocol: tuple[str, ...], thumbnail_px: int
) -> tuple[CopyView, ...]:
    """Returns the copies that the copy risk counts, of every set, the most alike first."""
    pairs = []
    for line in lines:
        if line.protocol in protocol:
            pairs += [(run.images / line.set, copy) for copy in line.copies]
    pairs.sort(key=lambda pair: -pair[1]["similarity"])
    try:
        photos = {photo.name: photo for photo in find_subject(config.data).photos}
    except UserError:
        photos = {}
    size = round(thumbnail_px * SMALL_THUMBNAIL)
    files = [folder / copy["image"] for folder, copy in pairs]
    originals = [photos.get(copy["photo"], run.path / "gone") for _, copy in pairs]
    thumbnails = zip(make_thumbnails(files, size), make_thumbnails(originals, size), pairs, strict=True)
    return tuple(
        CopyView(
            image=image,
            photo=photo,
            name=copy["image"],
            photo_name=copy["photo"],
            text=("the whole image" if copy["side"] == 1 else f"a part of {copy['side']:.0%} of its side")
            + f", similarity {copy['similarity']:.3f}, threshold {copy['threshold']:.3f}",
        )
        for image, photo, (_, copy) in thumbnails
    )


def _read_previews(run: RunFolder, thumbnail_px: int) -> tuple[tuple[str, tuple[Thumbnail, ...]], ...]:
    """Returns (label, images) per step, from `previews/step-NNNNNN*/` or `previews/step-NNNNNN*.png`."""
    groups: dict[str, list[Path]] = {}
    for file in sorted(run.previews.rglob("[!.]*.png")):
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
