"""`delora-sd retention`: each subject drawn and scored with its own adapter, then with several added up."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

from delora_eval.scoring.inputs.task import read_task
from delora_eval.scoring.judges.embedding import Judge
from delora_eval.scoring.measures.metrics import SCORES
from delora_eval.scoring.score import find_protocols, score_task
from delora_eval.settings import RetentionConfig, ScoreConfig
from delora_sd.adapters.exchange.merge.merging import check_strength
from delora_sd.config.deciding import read_run_settings
from delora_sd.config.overlay import with_settings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.generation.generate import generate
from delora_sd.generation.model import ModelKeeper
from delora_sd.settings import DataConfig, GenerateConfig, ModelConfig

SHOWN = ("dino", "clip_i", "dino_held_out", "clip_t", "context_accuracy")
"""Subject first; then whether the prompt is still followed."""

_DECIDED = ("run", "output_dir", "prompts", "images_per_prompt", "step", "average", "strength", "extra_adapters")


@dataclass(frozen=True, kw_only=True)
class Retained:
    """One score of one subject."""

    run: str
    score: str
    alone: float
    together: float
    """With the other adapters added."""


def measure_retention(config: RetentionConfig) -> list[Retained]:
    """Draws what is missing into each run's images, scores it into its scores.jsonl, and returns both totals.

    Raises:
        UserError: fewer than two runs, one that is not finished, two bases, two subjects of one name, wrong settings.
    """
    runs, strengths = _checked_runs(config), config.strengths or (1.0,) * len(config.runs)
    judge, keeper, found = Judge(config=config.encoders), ModelKeeper(), []
    shared = with_settings(GenerateConfig(), _settings(config), source="generate")
    for position, run in enumerate(runs):
        alone = replace(shared, run=str(run.path))
        together = _together(config, alone, runs, strengths, position)
        sets = [generate(each, keeper=keeper).name for each in (alone, together)]
        found += _scored(config, run, sets, judge)
    return found


def render_retention(rows: Sequence[Retained]) -> str:
    """Returns the table as text."""
    lines = [("run", "score", "alone", "together", "difference")]
    for row in rows:
        show = SCORES[row.score].show
        difference = f"{row.together - row.alone:+.3f}"
        lines.append((Path(row.run).name, SCORES[row.score].label, show(row.alone), show(row.together), difference))
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def _together(
    config: RetentionConfig, alone: GenerateConfig, runs: Sequence[RunFolder], strengths: Sequence[float], position: int
) -> GenerateConfig:
    """Returns the settings of the same images with every adapter, drawn into the same run."""
    run = runs[position]
    if config.combined is None:
        others = {
            str(other.adapter): strength for other, strength in zip(runs, strengths, strict=True) if other is not run
        }
        return replace(alone, strength=strengths[position], extra_adapters=others)
    train, subject = read_run_settings(run.config), run.read_manifest().get("subject", {})
    data = DataConfig(
        identifier=train.data.identifier, class_word=subject.get("class_word"), is_live=subject.get("is_live")
    )
    asked = {field.name: getattr(alone.model, field.name) for field in fields(ModelConfig)}
    changed = {name: value for name, value in asked.items() if value != getattr(ModelConfig(), name)}
    model = replace(train.model, **changed)
    return replace(alone, run=config.combined, output_dir=str(run.path), data=data, model=model)


def _scored(config: RetentionConfig, run: RunFolder, sets: Sequence[str], judge: Judge) -> list[Retained]:
    settings = ScoreConfig(run=str(run.path), sets=tuple(sets), protocol=(config.protocol,), encoders=config.encoders)
    task = read_task(settings)
    protocols = find_protocols(settings, task)
    lines = score_task(judge, protocols, task)
    totals = {
        (line["set"], line["score"]): line["value"]
        for line in lines
        if line["prompt"] is None and line["protocol"] == protocols[0].name and line["value"] is not None
    }
    alone, together = ({score: totals[name, score] for score in SHOWN if (name, score) in totals} for name in sets)
    return [
        Retained(run=str(run.path), score=score, alone=alone[score], together=together[score])
        for score in SHOWN
        if score in alone and score in together
    ]


def _checked_runs(config: RetentionConfig) -> list[RunFolder]:
    if len(config.runs) < 2:
        raise UserError(f"runs: {len(config.runs)} given; usage: delora-sd retention RUN RUN ...")
    if config.strengths and config.combined is not None:
        raise UserError("strengths: a combined file has its strengths in it; leave them out")
    if config.strengths and len(config.strengths) != len(config.runs):
        raise UserError(f"strengths: {len(config.strengths)} for {len(config.runs)} runs; give one each, or none")
    for name, strength in zip(config.runs, config.strengths, strict=False):
        check_strength(f"strengths of {name}", strength)
    runs = [RunFolder(Path(name).expanduser()) for name in config.runs]
    for run in runs:
        run.check_version()
        if not (run.config.is_file() and run.is_finished()):
            raise UserError(f"runs: {run.path} is no finished run; train it to its end first")
    _check_apart(runs)
    return runs


def _check_apart(runs: Sequence[RunFolder]) -> None:
    """Raises UserError for runs of two bases, and for two that answer to one name: no prompt could tell them apart."""
    manifests = [run.read_manifest() for run in runs]
    for run, manifest in zip(runs[1:], manifests[1:], strict=True):
        contents = [each.get("base", {}).get("fingerprint") for each in (manifests[0], manifest)]
        if all(contents) and contents[0] != contents[1]:
            raise UserError(f"runs: {runs[0].path} and {run.path} were trained on two bases; they cannot be added up")
    names = Counter(
        f"{read_run_settings(run.config).data.identifier} {manifest.get('subject', {}).get('class_word', '')}"
        for run, manifest in zip(runs, manifests, strict=True)
    )
    name, count = names.most_common(1)[0]
    if count > 1:
        raise UserError(f"runs: {count} of them answer to '{name}'; train each with a data.identifier of its own")


def _settings(config: RetentionConfig) -> dict:
    for key in _DECIDED:
        if key in config.generate:
            raise UserError(f"generate: {key} is decided here; remove it")
    return config.generate | {"prompts": list(config.prompts), "images_per_prompt": config.images_per_prompt}
