"""From what the page asks for to trainings: settings, a run folder for each, and which of them share a pack."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_sd.config.deciding import is_deciding, pack_group, read_run_settings
from delora_sd.config.load import flatten, load_config, to_yaml
from delora_sd.errors import UserError
from delora_sd.files.contents import absolute_place
from delora_sd.files.run_folder import write_text
from delora_sd.settings import TrainConfig
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.job import Job
from delora_sd.studio.jobs.queue import add_job
from delora_sd.studio.photos.captions import how_captioned
from delora_sd.studio.photos.subject import list_photos, read_subject
from delora_sd.studio.trainings.presets import PRESETS, preset_settings

_DECIDED_HERE = ("output_dir", "data.photos", "data.subject", "data.dataset", "data.captions", "training.tracker")
"""Settings that would lead out of the studio's folder."""
MOST_RUNS = 40


@dataclass(frozen=True, kw_only=True)
class Wish:
    """What the form says: every subject with every method."""

    subjects: tuple[str, ...]
    methods: tuple[str, ...]
    preset: str
    base: str
    seed: int = 0
    use_captions: bool = False
    outside_weight: float = 1.0
    """Below 1: the loss looks at the subject's mask."""
    more: str = ""
    """Further settings, `key=value`, one per line."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run that is planned."""

    run: str
    """Name of its folder in `runs/`."""
    words: tuple[str, ...]
    """The command: `train` and its settings."""
    config: TrainConfig


def plan_trainings(folder: StudioFolder, wish: Wish) -> list[Training]:
    """Returns one training per subject and method. Nothing is written.

    Raises:
        UserError: nothing chosen, settings that no training takes, a subject without enough photos.
    """
    if not wish.subjects or not wish.methods:
        raise UserError("choose at least one subject and one method")
    if len(wish.subjects) * len(wish.methods) > MOST_RUNS:
        raise UserError(f"{len(wish.subjects) * len(wish.methods)} trainings at once; expected at most {MOST_RUNS}")
    if wish.preset not in PRESETS:
        raise UserError(f"preset: '{wish.preset}'; expected one of {', '.join(PRESETS)}")
    return [_training(folder, wish, subject, method) for subject in wish.subjects for method in wish.methods]


def find_packs(trainings: Sequence[Training]) -> list[tuple[Training, ...]]:
    """Returns the trainings in groups that can train in one batch, in order."""
    if len(trainings) < 2:
        return [tuple(trainings)] if trainings else []
    from delora_sd.adapters.attach import is_packable

    groups: dict[str, list[Training]] = {}
    for training in trainings:
        can_share = is_packable(training.config.adapter.method)
        groups.setdefault(pack_group(training.config) if can_share else training.run, []).append(training)
    return [tuple(group) for group in groups.values()]


def pack_commands(folder: StudioFolder, pack: Sequence[Training]) -> tuple[tuple[str, ...], ...]:
    """Returns what trains the pack: the ordinary command, or `pack` with the run folders."""
    if len(pack) == 1:
        return (pack[0].words,)
    return (("pack", *(str((folder.runs / training.run).absolute()) for training in pack)),)


def start_trainings(folder: StudioFolder, trainings: Sequence[Training]) -> list[Job]:
    """Adds the trainings to the queue, a job per pack; runs that share one get their config.yaml now."""
    jobs = []
    for pack in find_packs(trainings):
        for training in pack:
            config = folder.runs / training.run / "config.yaml"
            if not config.exists():
                write_text(config, to_yaml(training.config))
        names = [training.run for training in pack]
        title = names[0] if len(pack) == 1 else f"{len(pack)} together: {', '.join(names)}"
        jobs.append(add_job(folder, title=title, kind="train", commands=pack_commands(folder, pack), runs=names))
    return jobs


def _training(folder: StudioFolder, wish: Wish, subject: str, method: str) -> Training:
    photos = folder.subject(subject)
    facts, files = read_subject(photos), list_photos(photos)
    if len(files) - facts.hold_out < 1:
        raise UserError(f"{subject}: {len(files)} photos, {facts.hold_out} held out; add photos in the first room")
    settings = {
        "model.base": absolute_place(wish.base) if wish.base.startswith(("/", "~", ".")) else wish.base,
        "data.photos": str(photos.absolute()),
        "data.class_word": facts.class_word,
        "data.identifier": facts.identifier,
        "adapter.method": method,
        "seed": wish.seed,
    }
    settings |= {} if facts.is_live is None else {"data.is_live": str(facts.is_live).lower()}
    settings |= {"data.hold_out": facts.hold_out} if facts.hold_out else {}
    settings |= preset_settings(wish.preset, base=wish.base, method=method)
    settings |= _captioned(wish, files)
    settings |= {} if wish.outside_weight == 1 else {"training.outside_weight": wish.outside_weight}
    words = [f"{key}={value}" for key, value in settings.items()] + _more(wish.more)
    return _named(folder, f"{subject}-{method}-{wish.preset}", words)


def _captioned(wish: Wish, files: list[Path]) -> dict[str, str]:
    if not wish.use_captions:
        return {}
    captioned, photos = how_captioned(files)
    if captioned < photos:
        raise UserError(f"{photos - captioned} of {photos} photos have no caption; write them in the first room")
    has_identifier = all("{identifier}" in file.with_suffix(".txt").read_text(encoding="utf-8") for file in files)
    template = "{caption}" if has_identifier else "a photo of {identifier} {class_word}, {caption}"
    return {"data.captions": "beside", "data.instance_template": template}


def _more(text: str) -> list[str]:
    """Returns the lines of further settings; those that would lead out of the folder are refused."""
    words = [line.strip() for line in text.splitlines() if line.strip()]
    for word in words:
        key, separator, _ = word.partition("=")
        if not separator:
            raise UserError(f"more settings: '{word[:60]}'; expected key=value, one per line")
        if key in _DECIDED_HERE:
            raise UserError(f"more settings: {key} is decided by the page; use the command line for another")
    return words


def _named(folder: StudioFolder, name: str, words: Sequence[str]) -> Training:
    """Returns the training in the first folder of that name that is free or holds the same training."""
    for number in range(1, 1000):
        run = name if number == 1 else f"{name}-{number}"
        place = f"output_dir={(folder.runs / run).absolute()}"
        config = load_config(TrainConfig, [], [*words, place])
        if _is_free_for(folder.runs / run / "config.yaml", config):
            return Training(run=run, words=("train", *words, place), config=config)
    raise UserError(f"{name}: a thousand runs have that name; move some of {folder.runs} away")


def _is_free_for(file: Path, config: TrainConfig) -> bool:
    if not file.exists():
        return not file.parent.exists()
    try:
        before = flatten(read_run_settings(file))
    except UserError:
        return False
    now = flatten(config)
    return all(before[key] == value for key, value in now.items() if is_deciding(key) or key == "output_dir")
