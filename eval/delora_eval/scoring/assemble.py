"""From picture files and prompts to the embedded subjects that `measure` scores."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from delora_eval.scoring.judges.embedding import Judge, black_pictures, embed_pictures, embed_texts
from delora_eval.scoring.judges.encoders import pick_device
from delora_eval.scoring.judges.family import CLASSIC
from delora_eval.scoring.judges.protocols import Protocol
from delora_eval.scoring.measures.measure import EmbeddedSubject, Pictures
from delora_eval.scoring.measures.ranking import Candidate
from delora_eval.scoring.picture_sets import Picture, PictureSet
from delora_sd.data.prompts import benchmark_prompts, render_prompt
from delora_sd.data.subjects import Subject, dreambooth
from delora_sd.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a number depends on beside pictures, photos, protocol and weights."""

    identifier: str
    copy_similarity: float | None = None
    lpips_weights: Path | None = None
    gallery: tuple[Subject, ...] = ()
    """Subjects that every picture is ranked among; its own is one of them. (): no ranks."""
    finds_copies: bool = False
    """Also compare pictures and their parts with photos and their parts."""
    judges: tuple[str, ...] = (CLASSIC,)
    """`classic` and judges of the family, each once."""
    masks: Path | None = None
    """The photos' masks; none: beside them."""


def embed_subject(
    judge: Judge, protocol: Protocol, subject: Subject, pictures: Sequence[Picture], *, options: Options
) -> EmbeddedSubject:
    """Returns one subject's photos and pictures as the protocol's encoders see them."""
    views = [protocol.dino, protocol.clip]
    photos_dino, photos_clip = embed_pictures(judge, subject.photos, views)
    unseen = embed_pictures(judge, subject.held_out, views) if subject.held_out else (None, None)
    texts = candidate_texts(pictures, subject, protocol, identifier=options.identifier)
    return EmbeddedSubject(
        name=subject.name,
        photos_dino=photos_dino,
        photos_clip=photos_clip,
        pictures=_embed_pictures(judge, protocol, subject, pictures, texts, options.lpips_weights),
        held_out_dino=unseen[0],
        held_out_clip=unseen[1],
    )


def candidate_texts(
    pictures: Sequence[Picture], subject: Subject, protocol: Protocol, *, identifier: str
) -> tuple[str, ...]:
    """Returns the texts a picture could belong to; a picture's prompt number is its text's place among them.

    Pictures of the benchmark's prompts: all 25, also when fewer were made. Other prompts: those of the pictures.
    """
    own = dict.fromkeys(_text(picture, protocol) for picture in sorted(pictures, key=lambda item: item.prompt_index))
    keeps = protocol.text_has_identifier and any(picture.names_subject for picture in pictures)
    benchmark = _benchmark_texts(subject, identifier if keeps else "")
    return benchmark if own.keys() <= set(benchmark) else tuple(own)


def keep_scored(judge: Judge, protocol: Protocol, pictures: Sequence[Picture]) -> tuple[list[Picture], int]:
    """Returns (the pictures the protocol scores, how many are black). All are embedded on the way, each decoded once.

    Raises:
        UserError: a damaged picture.
    """
    files = [picture.file for picture in pictures]
    try:
        embed_pictures(judge, files, [protocol.dino, protocol.clip])
    except UserError as error:
        is_ours = all(picture.settings for picture in pictures)  # listed in images.jsonl
        advice = "delete it and run `delora-sd generate` again" if is_ours else "make it again, or move it elsewhere"
        raise UserError(f"{error}; a generated picture: {advice}") from None
    black = black_pictures(judge, files)
    if not protocol.skips_black:
        return list(pictures), sum(black)
    return [picture for picture, is_black in zip(pictures, black, strict=True) if not is_black], sum(black)


def base_twins(sets: Sequence[PictureSet]) -> dict[tuple, Picture]:
    """Returns the base model's own pictures by what decided them: prompt, seed and sampling settings."""
    return {_twin_key(picture): picture for pictures in sets if pictures.is_base for picture in pictures.pictures}


def pair_with_base(pictures: Sequence[Picture], twins: dict[tuple, Picture]) -> tuple[list[int], list[Picture]]:
    """Returns (rows of the pictures that have a twin of the base model, their twins), in order."""
    rows = [row for row, picture in enumerate(pictures) if _twin_key(picture) in twins]
    return rows, [twins[_twin_key(pictures[row])] for row in rows]


def embed_gallery(judge: Judge, protocol: Protocol, gallery: Sequence[Subject]) -> dict[str, Candidate]:
    """Returns the subjects that pictures are ranked among, as the protocol's DINO sees them."""
    return {
        subject.name: Candidate(
            photos=embed_pictures(judge, subject.photos, [protocol.dino])[0], class_word=subject.class_word
        )
        for subject in gallery
    }


def _embed_pictures(
    judge: Judge,
    protocol: Protocol,
    subject: Subject,
    pictures: Sequence[Picture],
    texts: tuple[str, ...],
    lpips_weights: Path | None,
) -> Pictures:
    files = [picture.file for picture in pictures]
    dino, clip = embed_pictures(judge, files, [protocol.dino, protocol.clip])
    has_texts = all(texts)
    prompts = torch.tensor([texts.index(_text(picture, protocol)) for picture in pictures])
    classes = _class_variants(texts, subject.class_word) if has_texts and protocol.tells_classes else ()
    return Pictures(
        dino=dino,
        clip=clip,
        prompts=prompts,
        texts=embed_texts(judge, protocol.clip.encoder, texts) if has_texts else None,
        class_texts=torch.stack([embed_texts(judge, protocol.clip.encoder, variant) for variant in classes.values()])
        if classes
        else None,
        own_class=list(classes).index(subject.class_word) if classes else 0,
        **_lpips(judge, files, prompts, lpips_weights),
    )


def _lpips(judge: Judge, files: Sequence[Path], prompts: torch.Tensor, file: Path | None) -> dict[str, Any]:
    """Returns the LPIPS fields of `Pictures`, {} without weights."""
    if file is None:
        return {}
    from delora_eval.scoring.judges.lpips import load_lpips, lpips_distances

    weights, weights_hash = load_lpips(file)
    distances = lpips_distances(files, prompts, weights, pick_device(judge.config.device))
    return {"lpips": distances, "lpips_weights": weights_hash}


def _text(picture: Picture, protocol: Protocol) -> str:
    return picture.prompt if protocol.text_has_identifier else picture.text


def _benchmark_texts(subject: Subject, identifier: str) -> tuple[str, ...]:
    if not subject.class_word:
        return ()
    texts = (
        render_prompt(template, identifier=identifier, class_word=subject.class_word)
        for template in benchmark_prompts(subject.is_live)
    )
    return tuple(" ".join(text.split()) for text in texts)


def _class_variants(texts: tuple[str, ...], class_word: str) -> dict[str, tuple[str, ...]]:
    """Returns {class word: the same texts about that class}; {} when some text does not name the class."""
    own = re.compile(rf"\b{re.escape(class_word)}\b")
    if not class_word or not all(own.search(text) for text in texts):
        return {}
    words = dict.fromkeys([*dreambooth()["subjects"].values(), class_word])
    return {word: tuple(own.sub(lambda _, word=word: word, text, count=1) for text in texts) for word in words}


def _twin_key(picture: Picture) -> tuple:
    return picture.prompt, picture.seed, picture.settings
