"""One judge on one set of photos: how well it tells their subjects apart, and what a photo costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from delora_eval.scoring.judges.embedding import Judge, embed_pictures, use_encoder, use_weights
from delora_eval.scoring.judges.protocols import PROTOCOLS, View
from delora_eval.scoring.judges.weights import ENCODERS
from delora_eval.scoring.measures.discrimination import Gallery, Retrieval, retrieve, same_subject_auc
from delora_eval.scoring.measures.statistics import Estimate
from delora_eval.trial.galleries import PhotoSet
from delora_eval.trial.ratings import Agreement
from delora_sd.errors import UserError, nearest_name

SEED = 0
"""Of every bootstrap: the same photos give the same table."""

CLASSIC = ("dino/vit-s-16", "clip/vit-b-32", "clip/vit-l-14")
MINIATURE = ("mini-dino", "mini-clip")


@dataclass(frozen=True, kw_only=True)
class Discrimination:
    """What a judge can tell apart; None where the photos hold no such question."""

    auc: Estimate | None
    auc_within: Estimate | None
    """Against subjects of the same group only."""
    found: Retrieval | None
    found_within: Retrieval | None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """Everything the table says of one judge."""

    judge: str
    weights: str
    is_random: bool
    dataset: Discrimination
    lookalikes: Discrimination | None
    seconds_per_photo: float
    agreement: dict[str, Agreement] = field(default_factory=dict)
    """{"cp", "pf": agreement with people}, {} without ratings."""


def find_views(names: Sequence[str], *, dataset: str) -> dict[str, View]:
    """Returns {judge: encoder and preprocessing}, each in the first protocol that uses it.

    Raises:
        UserError: an encoder nobody knows (names the nearest), or no judge at all.
    """
    automatic = MINIATURE if dataset == "miniature" else CLASSIC
    wanted = [judge for name in names for judge in (automatic if name == "auto" else (name,))]
    if not wanted:
        raise UserError("judges: none given; expected encoder ids such as dino/vit-s-16, or auto")
    known = {view.encoder: view for protocol in reversed(PROTOCOLS.values()) for view in (protocol.clip, protocol.dino)}
    for name in wanted:
        if name not in known:
            raise UserError(f"judges: unknown judge '{name}'{nearest_name(name, tuple(ENCODERS))}")
    return {name: known[name] for name in dict.fromkeys(wanted)}


def try_judge(
    judge: Judge, name: str, view: View, photos: PhotoSet, lookalikes: PhotoSet | None, agreement: dict[str, Agreement]
) -> Verdict:
    """Returns the verdict on one judge."""
    use_encoder(judge, view.encoder)  # loading is not what a photo costs
    began = time.perf_counter()
    gallery = see_gallery(judge, view, photos)
    seconds = (time.perf_counter() - began) / len(photos.files)
    weights = use_weights(judge, view.encoder)
    return Verdict(
        judge=name,
        weights=weights.hash,
        is_random=weights.is_random,
        dataset=discriminate(gallery),
        lookalikes=discriminate(see_gallery(judge, view, lookalikes)) if lookalikes else None,
        seconds_per_photo=seconds,
        agreement=agreement,
    )


def see_gallery(judge: Judge, view: View, photos: PhotoSet) -> Gallery:
    """Returns the photos' similarities to each other under one judge."""
    (vectors,) = embed_pictures(judge, photos.files, [view])
    unit = vectors.double().numpy()
    return Gallery(similarity=np.asarray(unit @ unit.T), subjects=photos.subjects, groups=photos.groups)


def discriminate(gallery: Gallery) -> Discrimination:
    """Returns every measure of a gallery."""
    return Discrimination(
        auc=same_subject_auc(gallery, within_groups=False, seed=SEED),
        auc_within=same_subject_auc(gallery, within_groups=True, seed=SEED),
        found=retrieve(gallery, within_groups=False, seed=SEED),
        found_within=retrieve(gallery, within_groups=True, seed=SEED),
    )
