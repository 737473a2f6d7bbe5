"""What one `score` command looks at: subjects, photos and image sets, from a run folder or from two folders."""

from dataclasses import dataclass
from pathlib import Path

from delora_eval.scoring.inputs.image_sets import JudgedSet, read_folder_sets, read_reference, read_run_sets
from delora_eval.scoring.judges.family import CLASSIC, judge_names
from delora_eval.settings import ScoreConfig
from delora_sd.config.deciding import read_run_settings
from delora_sd.data.held_out import load_run_subject
from delora_sd.data.recorded import recognise_subject
from delora_sd.data.subjects import Subject, dreambooth, find_subject, is_live_class, subject_names
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import DataConfig, TrainConfig


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a number depends on beside images, photos, protocol and weights."""

    identifier: str
    copy_similarity: float | None = None
    lpips_weights: Path | None = None
    gallery: tuple[Subject, ...] = ()
    """Subjects that every image is ranked among; its own is one of them. (): no ranks."""
    finds_copies: bool = False
    """Also compare images and their parts with photos and their parts."""
    judges: tuple[str, ...] = (CLASSIC,)
    """`classic` and judges of the family, each once."""
    masks: Path | None = None
    """The photos' masks; none: beside them."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """All that one `score` command looks at."""

    subjects: dict[str, Subject]
    groups: tuple[tuple[JudgedSet, ...], ...]
    """Sets that are scored together, one per subject."""
    options: Options
    output: Path

    @property
    def base(self) -> str | None:
        return next((images.base for group in self.groups for images in group if images.base), None)

    @property
    def base_sets(self) -> list[JudgedSet]:
        return [images for group in self.groups for images in group if images.is_base]


def read_task(config: ScoreConfig) -> Task:
    """Returns what to score. Raises UserError when the settings name nothing, or two things."""
    folders = (config.reference, config.generated)
    if config.run is not None and folders == (None, None):
        return _read_run(config)
    if config.run is None and None not in folders:
        return _read_folders(config)
    raise UserError("what to score: give a run folder, or both reference=PHOTOS and generated=IMAGES")


def _read_run(config: ScoreConfig) -> Task:
    run = RunFolder(Path(config.run).expanduser())
    run.check_version()
    if not run.config.exists():
        raise UserError(
            f"{run.path} is not a run folder (no config.yaml); train first, or use reference= and generated="
        )
    settings = read_run_settings(run.config)
    subject = _trained_subject(run, settings)
    sets = read_run_sets(run, subject=subject.name, identifier=settings.data.identifier, names=config.sets)
    return Task(
        subjects={subject.name: subject},
        groups=tuple((images,) for images in sets),
        options=_options(config, settings.data.identifier, read_gallery(config, {subject.name: subject})),
        output=_output(config, run.scores),
    )


def _trained_subject(run: RunFolder, settings: TrainConfig) -> Subject:
    """Returns the subject with the photos the run was trained on; others would be another score."""
    advice = (
        "a score compares with the photos of the training: bring them back, or tell the run their new place by the "
        "same training command with it (data.photos, data.dataset)"
    )
    try:
        subject = load_run_subject(settings)
    except UserError as error:
        raise UserError(f"{run.path}: {error}; {advice}") from None
    return recognise_subject(run, subject, advice=advice)


def _read_folders(config: ScoreConfig) -> Task:
    photos = read_reference(Path(config.reference).expanduser())
    held_out = _read_held_out(config, photos)
    folder = Path(config.generated).expanduser()
    sets = read_folder_sets(folder, list(photos), identifier=config.identifier, prompts=config.prompts)
    known = dreambooth()["subjects"]
    subjects = {}
    for name, files in photos.items():
        word = config.class_word or known.get(name, "")
        is_live = bool(word) and is_live_class(word)
        unseen = held_out.get(name, ())
        subjects[name] = Subject(name=name, class_word=word, is_live=is_live, photos=files, held_out=unseen)
    names = dict.fromkeys(images.name for images in sets)
    return Task(
        subjects=subjects,
        groups=tuple(tuple(images for images in sets if images.name == name) for name in names),
        options=_options(config, config.identifier, read_gallery(config, subjects)),
        output=_output(config, folder / "scores.jsonl"),
    )


def read_gallery(config: ScoreConfig, subjects: dict[str, Subject]) -> tuple[Subject, ...]:
    """Returns the subjects that images are ranked among: the gallery's and, with their own photos, those scored.

    Without a gallery the subjects are each other's, when there are several.
    """
    if config.gallery is None:
        return tuple(subjects.values()) if len(subjects) > 1 else ()
    names = config.gallery_subjects or subject_names(config.gallery)
    others = [find_subject(DataConfig(subject=name, dataset=config.gallery)) for name in names if name not in subjects]
    return (*subjects.values(), *others)


def _read_held_out(config: ScoreConfig, photos: dict[str, tuple[Path, ...]]) -> dict[str, tuple[Path, ...]]:
    if config.held_out is None:
        return {}
    found = read_reference(Path(config.held_out).expanduser())
    if len(photos) == 1 and len(found) == 1:
        return dict(zip(photos, found.values(), strict=True))
    missing = sorted(photos.keys() - found.keys())
    if missing:
        raise UserError(f"held_out={config.held_out}: no photos of '{missing[0]}' in it; expected a folder per subject")
    return found


def _options(config: ScoreConfig, identifier: str, gallery: tuple[Subject, ...]) -> Options:
    lpips = Path(config.lpips_weights).expanduser() if config.lpips_weights else None
    if lpips is not None and not lpips.is_file():
        raise UserError(f"lpips_weights={lpips}: no such file")
    masks = Path(config.judges.masks).expanduser() if config.judges.masks else None
    if masks is not None and not masks.is_dir():
        raise UserError(f"judges.masks={masks}: no such folder; make one with `delora-sd masks PHOTOS class_word=...`")
    return Options(
        identifier=identifier,
        copy_similarity=config.copy_similarity,
        lpips_weights=lpips,
        gallery=gallery,
        finds_copies=config.copy_risk,
        judges=judge_names(config.judges.set),
        masks=masks,
    )


def _output(config: ScoreConfig, default: Path) -> Path:
    return Path(config.output).expanduser() if config.output else default
