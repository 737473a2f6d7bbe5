"""One judge on one set of photos: how well it tells their subjects apart, and what a photo costs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from delora_eval.scoring.judges.answers import subject_similarity
from delora_eval.scoring.judges.embedding import Judge, use_encoder, use_weights
from delora_eval.scoring.judges.family import FAMILY, WIDE
from delora_eval.scoring.judges.protocols import View
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
    """Returns {judge: encoder and preprocessing}; `wide` and `all` are written out as for `judges.set`.

    Raises:
        UserError: a judge nobody knows (names the nearest), one that only judges prompts, or no judge at all.
    """
    automatic = MINIATURE if dataset == "miniature" else CLASSIC
    sets = {"auto": automatic, "classic": CLASSIC, "wide": WIDE, "all": CLASSIC + WIDE}
    wanted = [judge for name in names for judge in sets.get(name, (name,))]
    if not wanted:
        raise UserError("judges: none given; expected encoder ids such as dino/vit-s-16, or auto")
    for name in wanted:
        if name not in FAMILY:
            raise UserError(f"judges: unknown judge '{name}'{nearest_name(name, (*sets, *FAMILY))}")
        if not FAMILY[name].subject:
            raise UserError(f"judges: '{name}' judges prompts, and photos have none; it cannot tell subjects apart")
    return {name: FAMILY[name].view for name in dict.fromkeys(wanted)}


def try_judge(
    judge: Judge, name: str, view: View, photos: PhotoSet, lookalikes: PhotoSet | None, agreement: dict[str, Agreement]
) -> Verdict:
    """Returns the verdict on one judge."""
    if FAMILY[name].kind == "vectors":
        use_encoder(judge, view.encoder)  # loading is not what a photo costs
    began = time.perf_counter()
    gallery = see_gallery(judge, name, photos)
    seconds = (time.perf_counter() - began) / len(photos.files)
    weights = use_weights(judge, view.encoder)
    return Verdict(
        judge=name,
        weights=weights.hash,
        is_random=weights.is_random,
        dataset=discriminate(gallery),
        lookalikes=discriminate(see_gallery(judge, name, lookalikes)) if lookalikes else None,
        seconds_per_photo=seconds,
        agreement=agreement,
    )


def see_gallery(judge: Judge, name: str, photos: PhotoSet) -> Gallery:
    """Returns the photos' similarities to each other under one judge.

    Raises:
        UserError: a judge that needs masks, and photos without.
    """
    alike = subject_similarity(judge, name, photos.files, photos.files).T.numpy()
    return Gallery(similarity=alike, subjects=photos.subjects, groups=photos.groups)


def discriminate(gallery: Gallery) -> Discrimination:
    """Returns every measure of a gallery."""
    return Discrimination(
        auc=same_subject_auc(gallery, within_groups=False, seed=SEED),
        auc_within=same_subject_auc(gallery, within_groups=True, seed=SEED),
        found=retrieve(gallery, within_groups=False, seed=SEED),
        found_within=retrieve(gallery, within_groups=True, seed=SEED),
    )
