"""From image files and prompts to the embedded subjects that `measure` scores."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from delora_eval.scoring.inputs.image_sets import JudgedImage, JudgedSet
from delora_eval.scoring.inputs.task import Options
from delora_eval.scoring.judges.embedding import Judge, black_images, embed_images, embed_texts
from delora_eval.scoring.judges.networks.encoders import pick_device
from delora_eval.scoring.judges.protocols import Protocol
from delora_eval.scoring.measures.measure import EmbeddedImages, EmbeddedSubject
from delora_eval.scoring.measures.ranking import Candidate
from delora_sd.data.prompts import benchmark_prompts, render_prompt
from delora_sd.data.subjects import Subject, dreambooth
from delora_sd.errors import UserError


def embed_subject(
    judge: Judge, protocol: Protocol, subject: Subject, images: Sequence[JudgedImage], *, options: Options
) -> EmbeddedSubject:
    """Returns one subject's photos and images as the protocol's encoders see them."""
    views = [protocol.dino, protocol.clip]
    photos_dino, photos_clip = embed_images(judge, subject.photos, views)
    unseen = embed_images(judge, subject.held_out, views) if subject.held_out else (None, None)
    texts = candidate_texts(images, subject, protocol, identifier=options.identifier)
    return EmbeddedSubject(
        name=subject.name,
        photos_dino=photos_dino,
        photos_clip=photos_clip,
        images=_embed_images(judge, protocol, subject, images, texts, options.lpips_weights),
        held_out_dino=unseen[0],
        held_out_clip=unseen[1],
    )


def candidate_texts(
    images: Sequence[JudgedImage], subject: Subject, protocol: Protocol, *, identifier: str
) -> tuple[str, ...]:
    """Returns the texts an image could belong to; an image's prompt number is its text's place among them.

    Images of the benchmark's prompts: all 25, also when fewer were made. Other prompts: those of the images.
    """
    own = dict.fromkeys(_text(image, protocol) for image in sorted(images, key=lambda item: item.prompt_index))
    keeps = protocol.text_has_identifier and any(image.names_subject for image in images)
    benchmark = _benchmark_texts(subject, identifier if keeps else "")
    return benchmark if own.keys() <= set(benchmark) else tuple(own)


def keep_scored(judge: Judge, protocol: Protocol, images: Sequence[JudgedImage]) -> tuple[list[JudgedImage], int]:
    """Returns (the images the protocol scores, how many are black). All are embedded on the way, each decoded once.

    Raises:
        UserError: a damaged image.
    """
    files = [image.file for image in images]
    try:
        embed_images(judge, files, [protocol.dino, protocol.clip])
    except UserError as error:
        is_ours = all(image.settings for image in images)  # listed in images.jsonl
        advice = "delete it and run `delora-sd generate` again" if is_ours else "make it again, or move it elsewhere"
        raise UserError(f"{error}; a generated image: {advice}") from None
    black = black_images(judge, files)
    if not protocol.skips_black:
        return list(images), sum(black)
    return [image for image, is_black in zip(images, black, strict=True) if not is_black], sum(black)


def base_twins(sets: Sequence[JudgedSet]) -> dict[tuple, JudgedImage]:
    """Returns the base model's own images by what decided them: prompt, seed and sampling settings."""
    return {_twin_key(image): image for images in sets if images.is_base for image in images.images}


def pair_with_base(
    images: Sequence[JudgedImage], twins: dict[tuple, JudgedImage]
) -> tuple[list[int], list[JudgedImage]]:
    """Returns (rows of the images that have a twin of the base model, their twins), in order."""
    rows = [row for row, image in enumerate(images) if _twin_key(image) in twins]
    return rows, [twins[_twin_key(images[row])] for row in rows]


def embed_gallery(judge: Judge, protocol: Protocol, gallery: Sequence[Subject]) -> dict[str, Candidate]:
    """Returns the subjects that images are ranked among, as the protocol's DINO sees them."""
    return {
        subject.name: Candidate(
            photos=embed_images(judge, subject.photos, [protocol.dino])[0], class_word=subject.class_word
        )
        for subject in gallery
    }


def _embed_images(
    judge: Judge,
    protocol: Protocol,
    subject: Subject,
    images: Sequence[JudgedImage],
    texts: tuple[str, ...],
    lpips_weights: Path | None,
) -> EmbeddedImages:
    files = [image.file for image in images]
    dino, clip = embed_images(judge, files, [protocol.dino, protocol.clip])
    has_texts = all(texts)
    prompts = torch.tensor([texts.index(_text(image, protocol)) for image in images])
    classes = _class_variants(texts, subject.class_word) if has_texts and protocol.tells_classes else ()
    return EmbeddedImages(
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
    """Returns the LPIPS fields of `Images`, {} without weights."""
    if file is None:
        return {}
    from delora_eval.scoring.judges.lpips import load_lpips, lpips_distances

    weights, weights_hash = load_lpips(file)
    distances = lpips_distances(files, prompts, weights, pick_device(judge.config.device))
    return {"lpips": distances, "lpips_weights": weights_hash}


def _text(image: JudgedImage, protocol: Protocol) -> str:
    return image.prompt if protocol.text_has_identifier else image.text


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


def _twin_key(image: JudgedImage) -> tuple:
    return image.prompt, image.seed, image.settings
