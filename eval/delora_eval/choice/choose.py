"""`delora-sd choose RUN`: a few images of every kept checkpoint, scored against held-out photos and prompts."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from delora_eval.choice.curve import curve_figure
from delora_eval.choice.prompts import SEED_OFFSET, split_prompts
from delora_eval.choice.rule import Candidate, by_image, judge_candidates, leave_one_out, pick
from delora_eval.scoring.groups.assemble import embed_subject
from delora_eval.scoring.inputs.image_sets import JudgedSet, read_folder_sets
from delora_eval.scoring.inputs.task import Options
from delora_eval.scoring.judges.embedding import Judge, use_weights
from delora_eval.scoring.judges.protocols import Protocol, find_protocol
from delora_eval.scoring.measures import metrics
from delora_eval.settings import ChooseConfig
from delora_sd.config.deciding import read_run_settings
from delora_sd.config.overlay import with_settings
from delora_sd.data.held_out import load_run_subject
from delora_sd.data.prompts import load_prompts
from delora_sd.data.recorded import recognise_subject
from delora_sd.data.subjects import Subject
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import RunFolder, read_json, write_bytes, write_json
from delora_sd.settings import GenerateConfig, TrainConfig

DECIDED_HERE = ("run", "output_dir", "step", "strength", "extra_adapters", "prompts", "images_per_prompt", "seed")

Generate = Callable[[GenerateConfig], Path]
"""Returns the folder of the image set."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """The step that was chosen and what it was chosen by: `choice/choice.json` of the run."""

    step: int
    reason: str
    reference: str
    """What the subject score compares with."""
    protocol: str
    prompts: tuple[str, ...]
    seeds: tuple[int, ...]
    is_random: bool
    candidates: tuple[Candidate, ...]


def choose(config: ChooseConfig) -> None:
    """Chooses, draws the curve, exports the adapter of the chosen step and says why."""
    from delora_sd.adapters.exchange.export.export import export_adapter
    from delora_sd.generation.generate import generate
    from delora_sd.generation.model import ModelKeeper
    from delora_sd.settings import ExportConfig

    keeper, run = ModelKeeper(), _run(config)
    choice = choose_step(config, lambda settings: generate(settings, keeper), Judge(config=config.encoders))
    print(render_choice(choice))
    print(f"curve: {run.path / 'choice' / 'curve.png'}")
    if read_run_settings(run.config).adapter.method != "full":
        export_adapter(ExportConfig(run=str(run.path), step=choice.step))
    print(f"report it on other prompts and seeds: delora-sd generate {run.path} step={choice.step}")


def choose_step(config: ChooseConfig, generate: Generate, judge: Judge) -> Choice:
    """Returns the choice, and writes it with its curve into `choice/` of the run folder.

    Raises:
        UserError: no run, fewer than two checkpoints, settings that are decided here, missing weights.
    """
    run = _run(config)
    train = read_run_settings(run.config)
    steps, protocol = _steps(config, run), _protocol(config, train)
    subject = recognise_subject(run, load_run_subject(train), advice="bring the photos of the training back")
    _check_photos(subject)
    for view in (protocol.dino, protocol.clip):
        use_weights(judge, view.encoder)
    asked = _requests(config, run, train, subject)
    sets = {step: _draw(generate, replace(asked, step=step), subject, train) for step in steps}
    candidates = _score(judge, protocol, subject, sets, train.data.identifier)
    chosen, reason = pick(candidates)
    choice = Choice(
        step=chosen.step,
        reason=reason,
        reference=_describe_reference(subject),
        protocol=protocol.name,
        prompts=asked.prompts,
        seeds=tuple(range(asked.seed, asked.seed + asked.images_per_prompt)),
        is_random=any(weights.is_random for weights in judge.weights.values())
        or any(images.random_weights for images in sets.values()),
        candidates=tuple(candidates),
    )
    write_choice(run, choice)
    return choice


def write_choice(run: RunFolder, choice: Choice) -> None:
    """Writes `choice/choice.json` and the curve."""
    figure = curve_figure(choice.candidates, chosen=choice.step, reference=choice.reference)
    write_bytes(run.path / "choice" / "curve.svg", figure.svg)
    write_bytes(run.path / "choice" / "curve.png", figure.png)
    write_json(run.path / "choice" / "choice.json", asdict(choice))


def render_choice(choice: Choice) -> str:
    """Returns the table of the steps and the reason, for a terminal."""
    head = f"{'step':>7}  {'subject':>7}  {'interval':>16}  {'prompt':>6}  {'trained':>7}"
    lines = [
        f"{each.step:>7}  {each.subject:>7.3f}  [{each.subject_low:.3f}, {each.subject_high:.3f}]  "
        f"{each.prompt:>6.3f}  {each.trained:>7.3f}{'  chosen' if each.step == choice.step else ''}"
        for each in choice.candidates
    ]
    stamp = ["RANDOM WEIGHTS: these numbers mean nothing"] if choice.is_random else []
    source = f"subject: against {choice.reference}, protocol {choice.protocol}; trained: against the trained photos"
    return "\n".join([head, *lines, source, *stamp, choice.reason])


def _run(config: ChooseConfig) -> RunFolder:
    run = RunFolder(Path(config.run).expanduser())
    run.check_version()
    if not config.run or not run.config.exists():
        raise UserError(f"run={config.run}: not a run folder (no config.yaml); train first")
    return run


def _steps(config: ChooseConfig, run: RunFolder) -> list[int]:
    kept = run.checkpoint_steps()
    unknown = [step for step in config.steps if step not in kept]
    if unknown:
        raise UserError(
            f"steps: {run.path} has no checkpoint {unknown[0]}; it has {', '.join(map(str, kept)) or 'none'}"
        )
    steps = sorted(set(config.steps)) or kept
    if len(steps) < 2:
        raise UserError(
            f"{run.path}: {len(steps)} checkpoint to choose from; train with a smaller training.checkpoint_every"
        )
    return steps


def _protocol(config: ChooseConfig, train: TrainConfig) -> Protocol:
    if config.protocol == "auto":
        return find_protocol("miniature" if train.model.base == "miniature" else "dreambooth")
    return find_protocol(config.protocol)


def _check_photos(subject: Subject) -> None:
    if not subject.held_out and len(subject.photos) < 2:
        raise UserError(
            f"{subject.name} has one photo and none is held out: a copy of it could not be told from a good image; "
            "give more photos"
        )


def _requests(config: ChooseConfig, run: RunFolder, train: TrainConfig, subject: Subject) -> GenerateConfig:
    """The images of every step: choosing prompts and seeds, in a folder that no report looks into."""
    for key in DECIDED_HERE:
        if key in config.generate:
            raise UserError(f"generate: {key} is decided by the choice; remove it")
    shared = with_settings(GenerateConfig(), config.generate, source="generate")
    facts = {"class_word": subject.class_word, "is_live": subject.is_live}
    listed = [prompt.template for prompt in load_prompts(config.prompts, identifier=train.data.identifier, **facts)]
    prompts, _ = split_prompts(listed) if config.prompts == ("dreambooth",) else (tuple(listed), ())
    return replace(
        shared,
        run=str(run.path),
        output_dir=str(run.path / "choice"),
        prompts=prompts,
        images_per_prompt=config.images_per_prompt,
        seed=SEED_OFFSET + config.seed,
    )


def _draw(generate: Generate, asked: GenerateConfig, subject: Subject, train: TrainConfig) -> JudgedSet:
    folder = generate(asked)
    sets = read_folder_sets(folder, [subject.name], identifier=train.data.identifier, prompts=None)
    if len(sets) != 1 or not sets[0].names_subject:
        raise UserError("prompts: every prompt that chooses must name the subject: write {identifier} in it")
    return sets[0]


def _score(
    judge: Judge, protocol: Protocol, subject: Subject, sets: dict[int, JudgedSet], identifier: str
) -> list[Candidate]:
    subjects, prompts, trained = {}, {}, {}
    for step, drawn in sets.items():
        ordered = sorted(drawn.images, key=lambda image: (image.prompt_index, image.seed))
        keys = [f"{image.prompt_index}/{image.seed}" for image in ordered]
        embed = embed_subject(judge, protocol, subject, ordered, options=Options(identifier=identifier))
        images = embed.images
        unseen = embed.held_out_dino
        likeness = (
            leave_one_out(embed.photos_dino, images.dino)
            if unseen is None
            else metrics.reference_similarity(unseen, images.dino)
        )
        subjects[step] = by_image(keys, likeness)
        prompts[step] = by_image(keys, metrics.matched_similarity(images.clip, images.texts[images.prompts]))
        trained[step] = by_image(keys, metrics.reference_similarity(embed.photos_dino, images.dino))
    return judge_candidates(subjects, prompts, trained)


def _describe_reference(subject: Subject) -> str:
    if subject.held_out:
        return f"held-out photos ({', '.join(photo.name for photo in subject.held_out)})"
    return "the trained photos, leaving out the nearest"


def read_choice(run: RunFolder) -> dict[str, Any]:
    """Returns the choice as it was written, {} before there is one."""
    file = run.path / "choice" / "choice.json"
    if not file.exists():
        return {}
    return check_record(read_json(file), {"step": int, "reason": str}, source=str(file), advice="delete it")
