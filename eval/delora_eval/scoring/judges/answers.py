"""What a judge of the family says of images: how alike to photos, how near to a prompt. Files in, numbers out."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from delora_eval.scoring.judges.embedding import Judge, embed_images, embed_texts, hash_files, timed, use_weights
from delora_eval.scoring.judges.family import FAMILY, FamilyJudge
from delora_eval.scoring.judges.masc.network import (
    PatchEncoder,
    load_patch_encoder,
    pool_patches,
    read_patch_texts,
    see_patches,
)
from delora_eval.scoring.judges.masc.patches import FOREGROUND, concept_preservation, cover, without_subject
from delora_eval.scoring.judges.networks.encoders import pick_device
from delora_eval.scoring.judges.vlm.questions import QUESTIONS
from delora_sd.data.masks import find_masks, load_mask
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError


def subject_similarity(
    judge: Judge, name: str, photos: Sequence[Path], images: Sequence[Path], *, masks: Path | None = None
) -> Float[Tensor, "R G"]:
    """Returns how alike every photo (row) and every image (column) are for the judge; at most 1.

    `masks` is the folder of the photos' masks, for judges that need them; none: beside the photos.

    Raises:
        UserError: a damaged image, or a mask that is missing or wrong.
    """
    member = FAMILY[name]
    if member.kind == "patches":
        return _masc_similarity(judge, member.encoder, photos, images, masks)
    (rows,), (columns,) = (embed_images(judge, files, [member.view]) for files in (photos, images))
    return rows.double() @ columns.double().T


def prompt_similarity(
    judge: Judge, name: str, images: Sequence[Path], prompts: Sequence[str], *, class_word: str
) -> Float[Tensor, " G"]:
    """Returns how near each image is to its own prompt, which names the subject by its class word.

    NaN for an image that MaSC cannot judge: its subject covers all of it.

    Raises:
        UserError: a damaged image, or a mask that is missing or wrong.
    """
    member = FAMILY[name]
    if member.kind == "patches":
        return _masc_prompts(judge, member.encoder, images, prompts, class_word)
    if member.kind == "questions":
        return _asked(judge, member, images, prompts)
    (vectors,) = embed_images(judge, images, [member.view])
    texts = embed_texts(judge, member.encoder, prompts)
    return (vectors.double() * texts.double()).sum(dim=1)


def _masc_similarity(
    judge: Judge, encoder_id: str, photos: Sequence[Path], images: Sequence[Path], folder: Path | None
) -> Tensor:
    """An image is seen once for all photos; the numbers are kept, for another protocol asks for them again."""
    sources = find_masks(photos, folder=folder)
    rows = list(zip(hash_files(judge, photos), hash_files(judge, sources), strict=True))
    foregrounds = [_foreground(judge, encoder_id, *pair) for pair in zip(photos, sources, strict=True)]
    for image, key in zip(images, hash_files(judge, images), strict=True):
        places = [(encoder_id, "alike", *row, key) for row in rows]
        if any(place not in judge.kept for place in places):
            unit = torch.nn.functional.normalize(_see(judge, encoder_id, image)[0], dim=-1)
            values = [concept_preservation(foreground, unit) for foreground in foregrounds]
            judge.kept.update(zip(places, values, strict=True))
    columns = hash_files(judge, images)
    return torch.tensor(
        [[judge.kept[encoder_id, "alike", *row, key] for key in columns] for row in rows], dtype=torch.float64
    )


def _foreground(judge: Judge, encoder_id: str, photo: Path, source: Path) -> Tensor:
    """Returns the unit vectors of the photo's foreground patches, made once."""
    place = (encoder_id, "foreground", *hash_files(judge, [photo, source]))
    if place not in judge.kept:
        mask = load_mask(photo, source)
        tokens, grid = _see(judge, encoder_id, photo)
        chosen = cover(mask, grid) > FOREGROUND
        if not chosen.any():
            raise UserError(
                f"{source}: covers no patch of {photo.name} by half ({grid[0]} x {grid[1]} patches); "
                "the mask is too small to judge by"
            )
        judge.kept[place] = torch.nn.functional.normalize(tokens[chosen], dim=-1)
    return judge.kept[place]


def _masc_prompts(
    judge: Judge, encoder_id: str, images: Sequence[Path], prompts: Sequence[str], class_word: str
) -> Tensor:
    encoder = _use_patch_encoder(judge, encoder_id)
    values = []
    for image, source, prompt in zip(images, find_masks(images), prompts, strict=True):
        pooled = _background(judge, encoder_id, image, source)
        text = read_patch_texts(encoder, [without_subject(prompt, class_word)])[0]
        values.append(float("nan") if pooled is None else (pooled.double() @ text.double()).item())
    return torch.tensor(values, dtype=torch.float64)


def _background(judge: Judge, encoder_id: str, image: Path, source: Path) -> Tensor | None:
    """Returns the image's background as SigLIP 2 pools it, made once; None when the subject covers all of it."""
    place = (encoder_id, "background", *hash_files(judge, [image, source]))
    if place not in judge.kept:
        mask = load_mask(image, source)
        tokens, grid = _see(judge, encoder_id, image)
        judge.kept[place] = pool_patches(_use_patch_encoder(judge, encoder_id), tokens, cover(mask, grid) < FOREGROUND)
    return judge.kept[place]


def _asked(judge: Judge, member: FamilyJudge, images: Sequence[Path], prompts: Sequence[str]) -> Tensor:
    """Every answer is kept in the judge, under the image's hash, for whoever writes them down."""
    from delora_eval.scoring.judges.vlm.network import ask, load_asked_model

    question, values = QUESTIONS[member.name], []
    weights, network = use_weights(judge, member.encoder), (member.encoder, "network")
    if network not in judge.kept:
        folder = judge.kept[member.encoder, "folder"]
        judge.kept[network] = load_asked_model(weights, folder, pick_device(judge.config.device))
    for image, key, prompt in zip(images, hash_files(judge, images), prompts, strict=True):
        place = (member.encoder, "answer", member.name, key, prompt)
        if place not in judge.kept:
            with timed(judge, member.encoder, 1):
                judge.kept[place] = ask(judge.kept[network], open_photo(image), question.ask(prompt), question.answers)
        values.append(question.read(judge.kept[place].probabilities))
    return torch.tensor(values, dtype=torch.float64)


def _see(judge: Judge, encoder_id: str, file: Path) -> tuple[Tensor, tuple[int, int]]:
    encoder, image = _use_patch_encoder(judge, encoder_id), open_photo(file)
    with timed(judge, encoder_id, 1):
        return see_patches(encoder, image)


def _use_patch_encoder(judge: Judge, encoder_id: str) -> PatchEncoder:
    place = (encoder_id, "network")
    if place not in judge.kept:
        judge.kept[place] = load_patch_encoder(use_weights(judge, encoder_id), pick_device(judge.config.device))
    return judge.kept[place]
