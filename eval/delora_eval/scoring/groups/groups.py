"""One group of image sets under one protocol: files in, scores per subject out. It writes nothing."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from delora_eval.scoring.groups.assemble import (
    base_twins,
    candidate_texts,
    embed_gallery,
    embed_subject,
    keep_scored,
    pair_with_base,
)
from delora_eval.scoring.groups.crops import SIDES, embed_windows
from delora_eval.scoring.inputs.image_sets import JudgedImage, JudgedSet
from delora_eval.scoring.inputs.task import Options
from delora_eval.scoring.judges.embedding import Judge, embed_images
from delora_eval.scoring.judges.protocols import Protocol
from delora_eval.scoring.measures import measure, memorisation
from delora_eval.scoring.measures.measure import EmbeddedSubject, Score
from delora_eval.scoring.measures.memorisation import Copy
from delora_eval.scoring.measures.ranking import measure_ranks
from delora_sd.data.subjects import Subject


@dataclass(frozen=True, kw_only=True)
class Scored:
    """The scores of one subject, and what their prompt numbers mean."""

    subject: str
    scores: list[Score]
    prompts: dict[int, str]
    """{prompt number: the prompt as it was generated from}."""
    num_black: int = 0
    copies: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """{score: which images it counts, each beside the photo it repeats}."""


def score_photos(judge: Judge, protocol: Protocol, subjects: Sequence[Subject]) -> list[Scored]:
    """Returns the ceiling of every subject: its photos against each other."""
    scored = []
    for subject in subjects:
        dino, clip = embed_images(judge, subject.photos, [protocol.dino, protocol.clip])
        scores = measure.measure_ceiling(dino, clip, keeps_self_pairs=protocol.keeps_self_pairs)
        if subject.held_out:
            held_out = embed_images(judge, subject.held_out, [protocol.dino, protocol.clip])
            scores += measure.measure_held_out_ceiling((dino, clip), tuple(held_out))
        scored.append(Scored(subject=subject.name, scores=scores, prompts={}))
    return scored


def score_group(
    judge: Judge,
    protocol: Protocol,
    group: Sequence[JudgedSet],
    *,
    subjects: dict[str, Subject],
    base_sets: Sequence[JudgedSet],
    options: Options,
) -> list[Scored]:
    """Returns the scores of sets that are judged together, one set per subject."""
    embedded: dict[str, EmbeddedSubject] = {}
    scored: dict[str, Scored] = {}
    for images in group:
        subject = subjects[images.subject]
        kept, num_black = keep_scored(judge, protocol, images.images)
        _warn_of_black(images, protocol, num_black)
        embed = embed_subject(judge, protocol, subject, kept, options=options) if kept else None
        scores = [] if embed is None else _own_scores(judge, protocol, embed, images, kept, base_sets, options)
        prompts = _prompt_names(kept, subject, protocol, options.identifier)
        item = Scored(subject=subject.name, scores=scores, prompts=prompts, num_black=num_black)
        if embed is not None and images.names_subject:
            embedded[subject.name] = embed
            if options.finds_copies:
                _add_copies(item, judge, protocol, subject, embed, kept)
        scored[subject.name] = item
    for name, fidelity in measure.measure_fidelity(list(embedded.values()), protocol).items():
        scored[name].scores[:0] = fidelity
    return list(scored.values())


def _own_scores(
    judge: Judge,
    protocol: Protocol,
    embed: EmbeddedSubject,
    images: JudgedSet,
    kept: Sequence[JudgedImage],
    base_sets: Sequence[JudgedSet],
    options: Options,
) -> list[Score]:
    """Returns the scores that need no other subject's images."""
    prompts = measure.measure_prompts(embed.images)
    if images.names_subject:
        copies = measure.measure_copies(embed, threshold=options.copy_similarity)
        own = memorisation.measure_held_out(embed) + _ranks(judge, protocol, embed, options)
        return own + prompts + measure.measure_diversity(embed.images) + copies
    drift = [] if images.is_base else _drift(judge, protocol, embed, kept, base_sets)
    return [*prompts, *drift, measure.measure_pres(embed)]


def _ranks(judge: Judge, protocol: Protocol, embed: EmbeddedSubject, options: Options) -> list[Score]:
    """Returns the ranks of the subject's images among the gallery, said to be missing where it has no rival."""
    if not options.gallery:
        return []
    if len(options.gallery) < 2:
        warnings.warn(
            f"gallery: {embed.name} is its only subject, and an image cannot be ranked among one; no ranks",
            stacklevel=2,
        )
    candidates = embed_gallery(judge, protocol, options.gallery)
    return measure_ranks(embed.name, embed.images.dino, embed.images.prompts, candidates)


def _add_copies(
    item: Scored,
    judge: Judge,
    protocol: Protocol,
    subject: Subject,
    embed: EmbeddedSubject,
    kept: Sequence[JudgedImage],
) -> None:
    """Adds the copy risk and says which images repeat which trained photo, whole or in part."""
    files = (subject.photos, [image.file for image in kept])
    copies = memorisation.find_copies(*(embed_windows(judge, each, protocol.dino) for each in files), SIDES)
    risk = memorisation.measure_copy_risk(copies, embed.images.prompts, photos=len(subject.photos))
    item.scores.append(risk)
    item.copies[risk.name] = [_describe_copy(copy, kept, subject) for copy in copies]


def _describe_copy(copy: Copy, kept: Sequence[JudgedImage], subject: Subject) -> dict[str, Any]:
    return {
        "image": kept[copy.image].file.name,
        "photo": subject.photos[copy.photo].name,
        "similarity": round(copy.similarity, 6),
        "threshold": round(copy.threshold, 6),
        "side": round(copy.side, 4),
    }


def _drift(
    judge: Judge,
    protocol: Protocol,
    embed: EmbeddedSubject,
    kept: Sequence[JudgedImage],
    base_sets: Sequence[JudgedSet],
) -> list[Score]:
    """Returns the drift over the images that have a twin made by the base model; [] without twins."""
    rows, twins = pair_with_base(kept, base_twins(base_sets))
    if not twins:
        return []
    base = embed_images(judge, [twin.file for twin in twins], [protocol.dino, protocol.clip])
    own = embed.images
    return measure.measure_drift((own.dino[rows], own.clip[rows]), tuple(base), own.prompts[rows])


def _prompt_names(kept: Sequence[JudgedImage], subject: Subject, protocol: Protocol, identifier: str) -> dict[int, str]:
    texts = candidate_texts(kept, subject, protocol, identifier=identifier)
    keeps = protocol.text_has_identifier
    return {texts.index(image.prompt if keeps else image.text): image.prompt for image in kept}


def _warn_of_black(images: JudgedSet, protocol: Protocol, num_black: int) -> None:
    if num_black:
        treatment = "left out" if protocol.skips_black else "scored as they are"
        warnings.warn(
            f"{images.name}: {num_black} of {len(images.images)} images of {images.subject} are black "
            f"(a safety checker?) and {treatment} under protocol {protocol.name}",
            stacklevel=2,
        )
