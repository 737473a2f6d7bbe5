"""One judge of the family on one group of image sets: files in, scores per subject out. It writes nothing."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from delora_eval.scoring.groups.assemble import candidate_texts
from delora_eval.scoring.groups.groups import Scored
from delora_eval.scoring.inputs.image_sets import JudgedImage, JudgedSet
from delora_eval.scoring.inputs.task import Options
from delora_eval.scoring.judges.answers import prompt_similarity, subject_similarity
from delora_eval.scoring.judges.embedding import Judge, is_black_image
from delora_eval.scoring.judges.family import FAMILY, FamilyJudge
from delora_eval.scoring.judges.protocols import Protocol, paired_subjects
from delora_eval.scoring.measures import metrics
from delora_eval.scoring.measures.measure import Score
from delora_eval.scoring.measures.metrics import PairMean
from delora_sd.data.masks import find_mask
from delora_sd.data.subjects import Subject


def score_photos_by(
    judge: Judge, name: str, protocol: Protocol, subjects: Sequence[Subject], *, options: Options
) -> list[Scored]:
    """Returns the ceiling of every subject under one judge: its photos against each other."""
    scored = []
    for subject in subjects:
        scores = []
        if FAMILY[name].subject:
            alike = subject_similarity(judge, name, subject.photos, subject.photos, masks=options.masks)
            scores = _ceiling(FAMILY[name], alike, keeps_self_pairs=protocol.keeps_self_pairs)
        scored.append(Scored(subject=subject.name, scores=scores, prompts={}))
    return scored


def score_group_by(
    judge: Judge,
    name: str,
    protocol: Protocol,
    group: Sequence[JudgedSet],
    *,
    subjects: dict[str, Subject],
    options: Options,
) -> list[Scored]:
    """Returns one judge's scores of sets that are judged together, one set per subject."""
    member, kept, scored = FAMILY[name], {}, {}
    for images in group:
        subject = subjects[images.subject]
        kept[subject.name], num_black = _scored_images(judge, protocol, images.images)
        scores = _prompt_scores(judge, member, protocol, subject, kept[subject.name], options)
        prompts = _prompt_names(kept[subject.name], subject, protocol, options)
        scored[subject.name] = Scored(subject=subject.name, scores=scores, prompts=prompts, num_black=num_black)
    named = [images.subject for images in group if images.names_subject and kept[images.subject]]
    for subject_name in named if member.subject else ():
        sources = {other: kept[other] for other in paired_subjects(subject_name, named, protocol)}
        scores = _subject_scores(judge, member, protocol, subjects, subject_name, sources, options)
        scored[subject_name].scores[:0] = scores
    return list(scored.values())


def _subject_scores(
    judge: Judge,
    member: FamilyJudge,
    protocol: Protocol,
    subjects: dict[str, Subject],
    name: str,
    sources: dict[str, list[JudgedImage]],
    options: Options,
) -> list[Score]:
    """Returns the subject's scores over the images that the protocol pairs with its photos."""
    photos = subjects[name].photos
    files = [image.file for images in sources.values() for image in images]
    numbers = [_prompt_numbers(images, subjects[other], protocol, options) for other, images in sources.items()]
    alike = subject_similarity(judge, member.name, photos, files, masks=options.masks)
    return [
        Score(
            name=score.name,
            by_prompt=metrics.mean_by_prompt(
                (1 - alike if score.is_distance else alike).mean(dim=0), torch.cat(numbers), pairs_each=len(photos)
            ),
            photos=len(photos),
        )
        for score in member.subject
    ]


def _prompt_scores(
    judge: Judge,
    member: FamilyJudge,
    protocol: Protocol,
    subject: Subject,
    images: list[JudgedImage],
    options: Options,
) -> list[Score]:
    """Returns the prompt scores; [] where prompts are unknown, or where images lack the masks the judge needs."""
    keeps = protocol.text_has_identifier and member.kind != "questions"  # nobody is asked about a word he cannot know
    texts = [image.prompt if keeps else image.text for image in images]
    if not member.prompt or not images or not all(texts):
        return []
    files = [image.file for image in images]
    if member.kind == "patches" and not _have_masks(files, member.name):
        return []
    near = prompt_similarity(judge, member.name, files, texts, class_word=subject.class_word)
    numbers, judged = _prompt_numbers(images, subject, protocol, options), ~near.isnan()
    by_prompt = metrics.mean_by_prompt(near[judged], numbers[judged], pairs_each=1)
    return [Score(name=score.name, by_prompt=by_prompt) for score in member.prompt] if by_prompt else []


def _have_masks(files: Sequence[Path], judge: str) -> bool:
    missing = [file for file in files if find_mask(file) is None]
    if missing:
        warnings.warn(
            f"{judge}: no masks for {len(missing)} of {len(files)} images in {missing[0].parent}, so its prompt "
            f"score is left out; make them with `delora-sd masks {missing[0].parent} class_word=...`",
            stacklevel=2,
        )
    return not missing


def _ceiling(member: FamilyJudge, alike: Tensor, *, keeps_self_pairs: bool) -> list[Score]:
    """Over all ordered pairs; a judge that looks at one photo's foreground only is not symmetric."""
    count = len(alike)
    pairs = count * count if keeps_self_pairs else count * (count - 1)
    total = alike.sum() if keeps_self_pairs else alike.sum() - alike.diagonal().sum()
    mean = (total / pairs).item() if pairs else float("nan")
    return [
        Score(
            name=f"real_{score.name}",
            by_prompt={0: PairMean(value=1 - mean if score.is_distance else mean, pairs=pairs, images=count)},
            photos=count,
        )
        for score in member.subject
    ]


def _scored_images(judge: Judge, protocol: Protocol, images: Sequence[JudgedImage]) -> tuple[list[JudgedImage], int]:
    """Returns (the images the protocol scores, how many are black)."""
    black = [is_black_image(judge, image.file) for image in images]
    kept = [image for image, dark in zip(images, black, strict=True) if not (dark and protocol.skips_black)]
    return kept, sum(black)


def _prompt_numbers(images: Sequence[JudgedImage], subject: Subject, protocol: Protocol, options: Options) -> Tensor:
    texts = candidate_texts(images, subject, protocol, identifier=options.identifier)
    keeps = protocol.text_has_identifier
    return torch.tensor([texts.index(image.prompt if keeps else image.text) for image in images])


def _prompt_names(
    images: Sequence[JudgedImage], subject: Subject, protocol: Protocol, options: Options
) -> dict[int, str]:
    numbers = _prompt_numbers(images, subject, protocol, options).tolist() if images else []
    return {number: image.prompt for number, image in zip(numbers, images, strict=True)}
