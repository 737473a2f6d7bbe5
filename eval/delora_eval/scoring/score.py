"""`delora-sd score`: images and photos in, scores.jsonl out. Scored again only when something changed.

One line per (set, protocol, score): its total (`prompt` null) and one line per prompt; over several subjects also the
pooled total (`subject` null). Every line carries what its number depends on: `protocol`, `encoder`, `weights` (hash),
`pairs`, `images`, `photos`, `random_weights` (of the encoder), `random_base` (of the model that drew the images),
`inputs` (fingerprint of all of it), and for some scores `threshold`, `candidates`, `real_gap` or `copies`.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from delora_eval.scoring.groups.crops import SIDES
from delora_eval.scoring.groups.groups import Scored, score_group, score_photos
from delora_eval.scoring.groups.wide import score_group_by, score_photos_by
from delora_eval.scoring.inputs.image_sets import JudgedSet
from delora_eval.scoring.inputs.task import Task, read_task
from delora_eval.scoring.judges.embedding import Judge, hash_files, use_weights
from delora_eval.scoring.judges.family import CLASSIC, FAMILY, JUDGE_OF
from delora_eval.scoring.judges.protocols import Protocol, find_protocol, modify
from delora_eval.scoring.judges.vlm.questions import QUESTIONS
from delora_eval.scoring.measures.measure import Score
from delora_eval.scoring.measures.metrics import SCORES, PairMean, pool
from delora_eval.scoring.record.costs import Spent, add_costs, spent_so_far
from delora_eval.scoring.record.raw_answers import write_answers
from delora_eval.scoring.record.score_lines import read_scores
from delora_eval.settings import ScoreConfig
from delora_sd.data.masks import find_mask, find_masks, load_mask
from delora_sd.files.contents import hash_file
from delora_sd.files.locks import hold
from delora_sd.files.run_folder import write_lines

SCORES_VERSION = 1
"""Part of every fingerprint: when a score's definition changes, old lines are made again."""

REFERENCE_SET = "reference photos"
"""The real-photo ceiling stands under this name in `set`."""


def score(config: ScoreConfig) -> list[dict[str, Any]]:
    """Scores what the settings name, writes and returns the lines of the protocols asked for, and prints the totals."""
    from delora_eval.scoring.record.summary import print_scores

    lines, output = score_quietly(config)
    print_scores(lines, output)
    if config.table:
        print(f"table: {Path(config.table).expanduser()}")
    return lines


def score_quietly(config: ScoreConfig) -> tuple[list[dict[str, Any]], Path]:
    """Returns (the lines of the protocols asked for, where all lines are written); writes the table asked for."""
    from delora_eval.scoring.record.summary import check_table, write_table

    check_table(config.table)
    task = read_task(config)
    protocols = find_protocols(config, task)
    names = [protocol.name for protocol in protocols]
    judge = Judge(config=config.encoders)
    check_judges(judge, protocols, task)  # before the lock: what is refused leaves nothing behind
    with hold(task.output.with_name(f".{task.output.name}.lock"), guarding=task.output, setting="output"):
        lines = score_task(judge, protocols, task)
    asked_for = [line for line in lines if line["protocol"] in names]
    if config.table:
        write_table(asked_for, Path(config.table).expanduser())
    return asked_for, task.output


def find_protocols(config: ScoreConfig, task: Task) -> list[Protocol]:
    """Returns the protocols asked for; the explicit options become part of their names."""
    automatic = "miniature" if task.base == "miniature" else "dreambooth"
    protocols = [find_protocol(automatic if name == "auto" else name) for name in config.protocol]
    if config.clip_t_identifier:
        protocols = [modify(protocol, "identifier") for protocol in protocols]
    if config.oft_substring_bug:
        protocols = [modify(protocol, "substring_bug") for protocol in protocols]
    return list(dict.fromkeys(protocols))


def score_task(judge: Judge, protocols: Sequence[Protocol], task: Task) -> list[dict[str, Any]]:
    """Returns all lines of the output file; sets whose inputs did not change keep theirs, and then no model loads.

    Many tasks may share one `judge`: encoders load once, a photo is encoded once.
    """
    check_judges(judge, protocols, task)
    lines = before = read_scores(task.output)
    spent = spent_so_far(judge)
    try:
        for name in task.options.judges:
            for protocol in protocols:
                for group in ((), *task.groups):
                    lines = _update(lines, judge, name, protocol, task, group)
    except KeyboardInterrupt:
        _write(judge, task, lines, spent)  # asked to stop: the groups that are scored are kept
        raise
    if lines != before:
        _write(judge, task, lines, spent)
    return lines


def _write(judge: Judge, task: Task, lines: list[dict[str, Any]], spent: Spent) -> None:
    """Answers first: a score whose answers are lost could not be looked into."""
    if task.options.judges != (CLASSIC,):
        write_answers(judge, task)
        add_costs(judge, spent, task.output)
    write_lines(task.output, lines)


def check_judges(judge: Judge, protocols: Sequence[Protocol], task: Task) -> None:
    """Raises UserError for missing weights, masks or models to ask, before any image is read."""
    for name in task.options.judges:
        if name == CLASSIC:
            for protocol in protocols:
                for view in (protocol.dino, protocol.clip):
                    use_weights(judge, view.encoder)
        else:
            use_weights(judge, FAMILY[name].encoder)
            if FAMILY[name].kind == "patches":
                for subject in task.subjects.values():
                    masks = find_masks(subject.photos, folder=task.options.masks)
                    for photo, mask in zip(subject.photos, masks, strict=True):
                        load_mask(photo, mask)


def _update(
    lines: list[dict[str, Any]],
    judge: Judge,
    judge_name: str,
    protocol: Protocol,
    task: Task,
    group: tuple[JudgedSet, ...],
) -> list[dict[str, Any]]:
    """Returns the lines with this judge's on this group up to date; the empty group is the photos themselves."""
    name = group[0].name if group else REFERENCE_SET
    inputs = _fingerprint(judge, judge_name, protocol, task, group)
    place = (name, protocol.name, judge_name)
    old = [line for line in lines if (line["set"], line["protocol"], JUDGE_OF.get(line["score"], CLASSIC)) == place]
    if old and all(line["inputs"] == inputs for line in old):
        return lines
    scored = _score(judge, judge_name, protocol, task, group)
    stamp = {"set": name, "protocol": protocol.name, "inputs": inputs} | _origin(group)
    fresh = [line for scores in scored for line in _subject_lines(judge, protocol, scores, stamp)]
    fresh += _pooled_lines(judge, protocol, scored, stamp)
    return [line for line in lines if line not in old] + fresh


def _score(judge: Judge, judge_name: str, protocol: Protocol, task: Task, group: tuple[JudgedSet, ...]) -> list[Scored]:
    options, subjects = task.options, task.subjects
    if judge_name != CLASSIC:
        if group:
            return score_group_by(judge, judge_name, protocol, group, subjects=subjects, options=options)
        return score_photos_by(judge, judge_name, protocol, list(subjects.values()), options=options)
    if group:
        return score_group(judge, protocol, group, subjects=subjects, base_sets=task.base_sets, options=options)
    return score_photos(judge, protocol, list(subjects.values()))


def _fingerprint(judge: Judge, judge_name: str, protocol: Protocol, task: Task, group: Sequence[JudgedSet]) -> str:
    """Returns the hash of everything the group's numbers depend on."""
    lpips = task.options.lpips_weights
    base = [image for images in task.base_sets if group for image in images.images]
    own = [image for images in group for image in images.images]
    facts = {
        "version": SCORES_VERSION,
        "protocol": repr(protocol),
        "weights": [use_weights(judge, encoder).hash for encoder in _encoders(judge_name, protocol)],
        "photos": {name: hash_files(judge, subject.photos) for name, subject in task.subjects.items()},
        "classes": {name: (subject.class_word, subject.is_live) for name, subject in task.subjects.items()},
        "pictures": [
            (key, image.prompt, image.text, image.seed)
            for key, image in zip(hash_files(judge, [image.file for image in own]), own, strict=True)
        ],
        "base": hash_files(judge, [image.file for image in base]),
        "copy_similarity": task.options.copy_similarity,
        "lpips": hash_file(lpips) if lpips else None,
    }
    if any(subject.held_out for subject in task.subjects.values()):
        facts["held_out"] = {name: hash_files(judge, subject.held_out) for name, subject in task.subjects.items()}
    if task.options.gallery and group:
        facts["gallery"] = {
            item.name: (item.class_word, hash_files(judge, item.photos)) for item in task.options.gallery
        }
    if task.options.finds_copies and group:
        facts["windows"] = SIDES
    if judge_name != CLASSIC:
        facts |= _family_facts(judge, judge_name, task, [image.file for image in own])
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def _encoders(judge_name: str, protocol: Protocol) -> tuple[str, ...]:
    if judge_name == CLASSIC:
        return protocol.dino.encoder, protocol.clip.encoder
    return (FAMILY[judge_name].encoder,)


def _family_facts(judge: Judge, judge_name: str, task: Task, files: list[Path]) -> dict[str, Any]:
    """Returns what a judge of the family depends on beside images and weights: its view, and the masks it reads."""
    facts: dict[str, Any] = {"judge": repr(FAMILY[judge_name])}
    if judge_name in QUESTIONS:
        facts["question"] = repr(QUESTIONS[judge_name])
    if FAMILY[judge_name].kind == "patches":
        photos = [photo for subject in task.subjects.values() for photo in subject.photos]
        found = [find_mask(file) for file in files]
        masks = [*find_masks(photos, folder=task.options.masks), *(mask for mask in found if mask is not None)]
        facts["masks"] = hash_files(judge, masks)
    return facts


def _origin(group: Sequence[JudgedSet]) -> dict[str, Any]:
    """Returns where the images come from."""
    if not group:
        return {"step": None, "strength": None, "base": None, "random_base": False}
    first = group[0]
    random_base = any(images.random_weights for images in group)
    return {"step": first.step, "strength": first.strength, "base": first.base, "random_base": random_base}


def _subject_lines(judge: Judge, protocol: Protocol, scored: Scored, stamp: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns, for each score of a subject, its total and one line per prompt."""
    lines = []
    for item in scored.scores:
        common = stamp | _source(judge, protocol, item) | {"subject": scored.subject, "photos": item.photos}
        total = _line(common, item.total, prompt=None, prompt_index=None)
        copies = {"copies": scored.copies[item.name]} if scored.copies.get(item.name) else {}
        lines.append(total | {"num_black": scored.num_black} | item.details | copies)
        lines += [
            _line(common, mean, prompt=scored.prompts[index], prompt_index=index)
            for index, mean in sorted(item.by_prompt.items())
            if index in scored.prompts
        ]
    return lines


def _pooled_lines(
    judge: Judge, protocol: Protocol, scored: Sequence[Scored], stamp: dict[str, Any]
) -> list[dict[str, Any]]:
    """Returns the total over several subjects, pooled as the protocol says; [] for one subject."""
    if len(scored) < 2:
        return []
    by_name: dict[str, list[Score]] = {}
    for subject in scored:
        for item in subject.scores:
            by_name.setdefault(item.name, []).append(item)
    return [
        _line(
            stamp
            | _source(judge, protocol, items[0])
            | {"subject": None, "photos": sum(item.photos for item in items)},
            pool([item.total for item in items], protocol.pooling),
            prompt=None,
            prompt_index=None,
        )
        | {"subjects": len(items), "pooling": protocol.pooling}
        for items in by_name.values()
    ]


def _source(judge: Judge, protocol: Protocol, item: Score) -> dict[str, Any]:
    """Returns whose number it is: score, encoder and weights."""
    encoder = SCORES[item.name].encoder
    if encoder == "lpips":
        return {
            "score": item.name,
            "encoder": "lpips/alex",
            "weights": item.details["weights"],
            "random_weights": False,
        }
    if encoder == "judge":
        encoder_id = FAMILY[JUDGE_OF[item.name]].encoder
    else:
        encoder_id = {"dino": protocol.dino, "clip": protocol.clip}[encoder].encoder
    weights = use_weights(judge, encoder_id)
    return {
        "score": item.name,
        "encoder": weights.spec.id,
        "weights": weights.hash,
        "random_weights": weights.is_random,
    }


def _line(common: dict[str, Any], mean: PairMean, *, prompt: str | None, prompt_index: int | None) -> dict[str, Any]:
    return common | {
        "value": None if mean.pairs == 0 else round(mean.value, 6),
        "pairs": mean.pairs,
        "images": mean.images,
        "prompt": prompt,
        "prompt_index": prompt_index,
    }
