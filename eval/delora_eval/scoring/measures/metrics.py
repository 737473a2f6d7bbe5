"""Scores from embeddings: pure tensor mathematics. It knows no files, no encoders and no prompts' texts.

Shapes: R photos, G generated images, T texts, D dimensions. Embeddings are unit vectors: a dot product is a cosine.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from delora_eval.scoring.judges.family import FAMILY


@dataclass(frozen=True, kw_only=True)
class PairMean:
    """A mean that remembers how many pairs it is of, so that means can be pooled exactly."""

    value: float
    pairs: int
    images: int
    """Images it looked at."""


@dataclass(frozen=True, kw_only=True)
class ScoreKind:
    """What a score's name means."""

    label: str
    meaning: str
    higher_is_better: bool | None
    """none: neither, a fact to read beside the others."""
    encoder: Literal["dino", "clip", "lpips", "judge"]
    """Which of the protocol's encoders; judge: a member of the family, the same under every protocol."""
    is_share: bool = False
    """True: a share of images, shown in percent."""

    def label_for(self, encoder: str) -> str:
        """Returns the label; the miniature's judges are no DINO and no CLIP, and their numbers say so."""
        if self.encoder == "judge" or not encoder.startswith("mini-"):
            return self.label
        return self.label.replace("DINO", "mini-DINO").replace("CLIP", "mini-CLIP")

    def show(self, value: float | None) -> str:
        """Returns `0.686`, or `82%` for a share."""
        if value is None:
            return "–"
        return f"{value:.0%}" if self.is_share else f"{value:.3f}"


SCORES = {
    "dino": ScoreKind(
        label="DINO",
        meaning="Subject fidelity: mean cosine over all photo x image pairs.",
        higher_is_better=True,
        encoder="dino",
    ),
    "clip_i": ScoreKind(
        label="CLIP-I",
        meaning="Subject fidelity by CLIP: mean cosine over all photo x image pairs.",
        higher_is_better=True,
        encoder="clip",
    ),
    "dino_held_out": ScoreKind(
        label="DINO held-out",
        meaning="Subject fidelity against photos that were never trained on.",
        higher_is_better=True,
        encoder="dino",
    ),
    "clip_i_held_out": ScoreKind(
        label="CLIP-I held-out",
        meaning="Subject fidelity by CLIP against photos that were never trained on.",
        higher_is_better=True,
        encoder="clip",
    ),
    "memorised_dino": ScoreKind(
        label="Memorised",
        meaning="DINO against trained photos minus held-out ones, less the gap of real photos. 0: not copied.",
        higher_is_better=False,
        encoder="dino",
    ),
    "memorised_clip_i": ScoreKind(
        label="Memorised by CLIP",
        meaning="CLIP-I against trained photos minus held-out ones, less the gap real photos show.",
        higher_is_better=False,
        encoder="clip",
    ),
    "rank_top1": ScoreKind(
        label="Own subject first",
        meaning="Share of images to which their own subject is, by DINO, the nearest of all subjects.",
        higher_is_better=True,
        encoder="dino",
        is_share=True,
    ),
    "rank_mrr": ScoreKind(
        label="Reciprocal rank",
        meaning="Mean reciprocal rank, by DINO, of an image's own subject among all subjects.",
        higher_is_better=True,
        encoder="dino",
    ),
    "class_rank_top1": ScoreKind(
        label="First in class",
        meaning="Share of images to which their own subject is, by DINO, the nearest of those with its class word.",
        higher_is_better=True,
        encoder="dino",
        is_share=True,
    ),
    "class_rank_mrr": ScoreKind(
        label="Reciprocal rank in class",
        meaning="Mean reciprocal rank, by DINO, of an image's own subject among those with its class word.",
        higher_is_better=True,
        encoder="dino",
    ),
    "clip_t": ScoreKind(
        label="CLIP-T",
        meaning="Prompt fidelity: mean cosine of image and prompt text.",
        higher_is_better=True,
        encoder="clip",
    ),
    "context_accuracy": ScoreKind(
        label="Context",
        meaning="Share of images whose own prompt is the nearest by CLIP among all prompts of the list.",
        higher_is_better=True,
        encoder="clip",
        is_share=True,
    ),
    "class_accuracy": ScoreKind(
        label="Class",
        meaning="Share of images for which CLIP prefers their own prompt to the same prompt with another class word.",
        higher_is_better=True,
        encoder="clip",
        is_share=True,
    ),
    "diversity_dino": ScoreKind(
        label="Diversity",
        meaning="Mean DINO distance (1 - cosine) between images of the same prompt. Not LPIPS.",
        higher_is_better=None,
        encoder="dino",
    ),
    "diversity_lpips": ScoreKind(
        label="LPIPS diversity",
        meaning="Mean LPIPS distance between images of the same prompt (DreamBooth's DIV).",
        higher_is_better=None,
        encoder="lpips",
    ),
    "nearest_dino": ScoreKind(
        label="Nearest photo",
        meaning="Mean DINO cosine of an image to the photo nearest to it.",
        higher_is_better=None,
        encoder="dino",
    ),
    "copy_rate": ScoreKind(
        label="Copies",
        meaning="Share of images whose nearest photo is at least as similar as the stated threshold.",
        higher_is_better=False,
        encoder="dino",
        is_share=True,
    ),
    "copy_risk": ScoreKind(
        label="Copy risk",
        meaning="Share of images that repeat a trained photo, whole or in part: nearer by half than photos are.",
        higher_is_better=False,
        encoder="dino",
        is_share=True,
    ),
    "drift_dino": ScoreKind(
        label="Drift",
        meaning="Class prompts: mean DINO distance (1 - cosine) to the base model's own image of prompt and seed.",
        higher_is_better=False,
        encoder="dino",
    ),
    "drift_clip_i": ScoreKind(
        label="Drift by CLIP",
        meaning="Class prompts: mean CLIP distance (1 - cosine) to the base model's own image of prompt and seed.",
        higher_is_better=False,
        encoder="clip",
    ),
    "pres": ScoreKind(
        label="PRES",
        meaning="Class prompts: DINO cosine to the subject's photos (DreamBooth). High: the class became the subject.",
        higher_is_better=False,
        encoder="dino",
    ),
    "real_dino": ScoreKind(
        label="DINO of real photos",
        meaning="The ceiling: mean DINO cosine between different photos of the subject.",
        higher_is_better=None,
        encoder="dino",
    ),
    "real_clip_i": ScoreKind(
        label="CLIP-I of real photos",
        meaning="The ceiling: mean CLIP cosine between different photos of the subject.",
        higher_is_better=None,
        encoder="clip",
    ),
    "real_dino_held_out": ScoreKind(
        label="DINO of real photos, held-out",
        meaning="The ceiling: mean DINO cosine of the trained photos to the held-out ones.",
        higher_is_better=None,
        encoder="dino",
    ),
    "real_clip_i_held_out": ScoreKind(
        label="CLIP-I of real photos, held-out",
        meaning="The ceiling: mean CLIP cosine of the trained photos to the held-out ones.",
        higher_is_better=None,
        encoder="clip",
    ),
}

SCORES |= {
    score.name: ScoreKind(
        label=score.label, meaning=score.meaning, higher_is_better=not score.is_distance, encoder="judge"
    )
    for judge in FAMILY.values()
    for score in judge.scores
}
SCORES |= {
    f"real_{score.name}": ScoreKind(
        label=f"{score.label} of real photos",
        meaning=f"The ceiling of {score.label}: the same between different photos of the subject.",
        higher_is_better=None,
        encoder="judge",
    )
    for judge in FAMILY.values()
    for score in judge.subject
}

FIDELITIES = ("dino", "clip_t")
"""Subject and prompt: a figure or table never shows one without the other."""


def pool(means: Iterable[PairMean], pooling: Literal["subjects", "pairs"]) -> PairMean:
    """Returns the mean of several means: each the same (`subjects`), or each by its pairs (`pairs`)."""
    means = [mean for mean in means if mean.pairs]
    if not means:
        return PairMean(value=float("nan"), pairs=0, images=0)
    pairs, images = sum(mean.pairs for mean in means), sum(mean.images for mean in means)
    if pooling == "subjects":
        value = sum(mean.value for mean in means) / len(means)
    else:
        value = sum(mean.value * mean.pairs for mean in means) / pairs
    return PairMean(value=value, pairs=pairs, images=images)


def reference_similarity(photos: Float[Tensor, "R D"], images: Float[Tensor, "G D"]) -> Float[Tensor, " G"]:
    """Returns each image's mean cosine to all photos; its mean is the mean over all R x G pairs."""
    return (images.double() @ photos.double().T).mean(dim=1)


def nearest_similarity(photos: Float[Tensor, "R D"], images: Float[Tensor, "G D"]) -> Float[Tensor, " G"]:
    """Returns each image's cosine to the photo nearest to it."""
    return (images.double() @ photos.double().T).max(dim=1).values


def matched_similarity(left: Float[Tensor, "G D"], right: Float[Tensor, "G D"]) -> Float[Tensor, " G"]:
    """Returns the cosine of each row with the same row of the other tensor."""
    return (left.double() * right.double()).sum(dim=1)


def self_similarity(photos: Float[Tensor, "R D"], *, keeps_self_pairs: bool) -> PairMean:
    """Returns the mean cosine over all ordered pairs of photos: R (R - 1) of them, or R^2 with self pairs."""
    count = len(photos)
    cosines = photos.double() @ photos.double().T
    total, pairs = cosines.sum(), count * count
    if not keeps_self_pairs:
        total, pairs = total - cosines.diagonal().sum(), count * (count - 1)
    return PairMean(value=(total / pairs).item() if pairs else float("nan"), pairs=pairs, images=count)


def closest_pair(photos: Float[Tensor, "R D"]) -> float:
    """Returns the cosine of the two most alike photos; 1 when there is only one photo."""
    cosines = (photos.double() @ photos.double().T).fill_diagonal_(-1)
    return cosines.max().item() if len(photos) > 1 else 1.0


def nearest_text(
    images: Float[Tensor, "G D"], texts: Float[Tensor, "T D"], own: Int[Tensor, " G"]
) -> Bool[Tensor, " G"]:
    """Returns whether each image's own text is the nearest of all; a tie counts as a miss."""
    cosines = images.double() @ texts.double().T
    own_cosine = cosines.gather(1, own[:, None])
    rivals = cosines.scatter(1, own[:, None], -2.0)
    return (own_cosine > rivals).all(dim=1)


def mean_by_prompt(values: Tensor, prompts: Int[Tensor, " G"], *, pairs_each: int) -> dict[int, PairMean]:
    """Returns {prompt index: mean}; each image stands for `pairs_each` pairs, all of equal number."""
    values = values.double()
    means = {}
    for prompt in prompts.unique().tolist():
        chosen = values[prompts == prompt]
        means[prompt] = PairMean(value=chosen.mean().item(), pairs=len(chosen) * pairs_each, images=len(chosen))
    return means


def distance_by_prompt(distances: Float[Tensor, "G G"], prompts: Int[Tensor, " G"]) -> dict[int, PairMean]:
    """Returns {prompt index: mean distance over its unordered pairs of different images}."""
    means = {}
    for prompt in prompts.unique().tolist():
        chosen = torch.nonzero(prompts == prompt).flatten()
        rows, columns = torch.triu_indices(len(chosen), len(chosen), offset=1)
        if len(rows):
            value = distances[chosen[rows], chosen[columns]].double().mean().item()
            means[prompt] = PairMean(value=value, pairs=len(rows), images=len(chosen))
    return means


def cosine_distances(images: Float[Tensor, "G D"]) -> Float[Tensor, "G G"]:
    """Returns 1 - cosine of every two images."""
    return 1 - images.double() @ images.double().T
