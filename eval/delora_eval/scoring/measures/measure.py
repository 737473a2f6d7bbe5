"""Scores of embedded subjects under a protocol: what is paired with what, and over what the mean runs.

It sees unit vectors and prompt numbers only, so a test can hand it eight images with known embeddings.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from delora_eval.scoring.judges.protocols import Protocol, paired_subjects
from delora_eval.scoring.measures import metrics
from delora_eval.scoring.measures.metrics import PairMean, pool


@dataclass(frozen=True, kw_only=True)
class EmbeddedImages:
    """Generated images as the protocol's encoders see them; unit vectors, one row per image."""

    dino: Float[Tensor, "G D"]
    clip: Float[Tensor, "G C"]
    prompts: Int[Tensor, " G"]
    """Prompt number of every image."""
    texts: Float[Tensor, "P C"] | None = None
    """CLIP's vector of prompt number p in row p; none: prompts unknown."""
    class_texts: Float[Tensor, "K P C"] | None = None
    """The same prompts with each of K class words in turn."""
    own_class: int = 0
    """Which of the K is the subject's class word."""
    lpips: Float[Tensor, "G G"] | None = None
    """LPIPS distances; only entries within a prompt are read."""
    lpips_weights: str = ""
    """Hash of LPIPS's weights."""


@dataclass(frozen=True, kw_only=True)
class EmbeddedSubject:
    """A subject's photos and images as the protocol's encoders see them."""

    name: str
    photos_dino: Float[Tensor, "R D"]
    photos_clip: Float[Tensor, "R C"]
    images: EmbeddedImages
    held_out_dino: Float[Tensor, "H D"] | None = None
    """Photos that were never trained on; none: there are no such photos."""
    held_out_clip: Float[Tensor, "H C"] | None = None


@dataclass(frozen=True, kw_only=True)
class Score:
    """One score of one subject, per prompt and pooled."""

    name: str
    by_prompt: dict[int, PairMean]
    photos: int = 0
    """Reference photos it compares with; 0: none."""
    details: dict[str, Any] = field(default_factory=dict)
    """What the number depends on beside the protocol: a threshold, the number of candidates."""

    @property
    def total(self) -> PairMean:
        """The mean over all pairs of the subject."""
        return pool(self.by_prompt.values(), "pairs")


def measure_fidelity(subjects: Sequence[EmbeddedSubject], protocol: Protocol) -> dict[str, list[Score]]:
    """Returns {subject: [dino, clip_i]}; whose images meet whose photos is the protocol's decision."""
    by_name = {subject.name: subject for subject in subjects}
    return {
        subject.name: _fidelity(
            subject, [by_name[name] for name in paired_subjects(subject.name, [*by_name], protocol)]
        )
        for subject in subjects
    }


def measure_ceiling(
    photos_dino: Float[Tensor, "R D"], photos_clip: Float[Tensor, "R C"], *, keeps_self_pairs: bool
) -> list[Score]:
    """Returns [real_dino, real_clip_i]: how similar one subject's (trained) photos are to each other."""
    vectors = {"real_dino": photos_dino, "real_clip_i": photos_clip}
    return [
        Score(
            name=name,
            by_prompt={0: metrics.self_similarity(photos, keeps_self_pairs=keeps_self_pairs)},
            photos=len(photos),
        )
        for name, photos in vectors.items()
    ]


def measure_held_out_ceiling(
    photos: tuple[Float[Tensor, "R D"], Float[Tensor, "R C"]],
    held_out: tuple[Float[Tensor, "H D"], Float[Tensor, "H C"]],
) -> list[Score]:
    """Returns [real_dino_held_out, real_clip_i_held_out] from (DINO, CLIP): trained photos against held-out ones."""
    scores = []
    for name, own, unseen in zip(("dino", "clip_i"), photos, held_out, strict=True):
        value = metrics.reference_similarity(unseen, own).mean().item()
        mean = PairMean(value=value, pairs=len(own) * len(unseen), images=len(own))
        scores.append(Score(name=f"real_{name}_held_out", by_prompt={0: mean}, photos=len(unseen)))
    return scores


def measure_copies(subject: EmbeddedSubject, *, threshold: float | None) -> list[Score]:
    """Returns [nearest_dino, copy_rate]; without a threshold a copy is as near as the two most alike photos."""
    images, photos = subject.images, subject.photos_dino
    nearest = metrics.nearest_similarity(photos, images.dino)
    stated = metrics.closest_pair(photos) if threshold is None else threshold
    by_prompt = {"nearest_dino": nearest, "copy_rate": nearest >= stated}
    return [
        Score(
            name=name,
            by_prompt=metrics.mean_by_prompt(values, images.prompts, pairs_each=1),
            photos=len(photos),
            details={"threshold": round(stated, 6)} if name == "copy_rate" else {},
        )
        for name, values in by_prompt.items()
    ]


def measure_prompts(images: EmbeddedImages) -> list[Score]:
    """Returns [clip_t, context_accuracy, class_accuracy], as far as prompts and class words are known."""
    if images.texts is None:
        return []
    similarity = metrics.matched_similarity(images.clip, images.texts[images.prompts])
    scores = [_per_image("clip_t", similarity, images)]
    if len(images.texts) > 1:
        hits = metrics.nearest_text(images.clip, images.texts, images.prompts)
        scores.append(_per_image("context_accuracy", hits, images, candidates=len(images.texts)))
    if images.class_texts is not None:
        hits = _class_hits(images)
        scores.append(_per_image("class_accuracy", hits, images, candidates=len(images.class_texts)))
    return scores


def measure_diversity(images: EmbeddedImages) -> list[Score]:
    """Returns [diversity_dino] and, with LPIPS, [diversity_lpips]; [] when every prompt has one image."""
    distances = {"diversity_dino": metrics.cosine_distances(images.dino), "diversity_lpips": images.lpips}
    details = {"diversity_dino": {}, "diversity_lpips": {"weights": images.lpips_weights}}
    scores = [
        Score(name=name, by_prompt=metrics.distance_by_prompt(values, images.prompts), details=details[name])
        for name, values in distances.items()
        if values is not None
    ]
    return [score for score in scores if score.by_prompt]


def measure_drift(
    adapted: tuple[Float[Tensor, "G D"], Float[Tensor, "G C"]],
    base: tuple[Float[Tensor, "G D"], Float[Tensor, "G C"]],
    prompts: Int[Tensor, " G"],
) -> list[Score]:
    """Returns [drift_dino, drift_clip_i] from (DINO, CLIP) of the adapted model's images and of their base twins."""
    return [
        Score(
            name=name,
            by_prompt=metrics.mean_by_prompt(1 - metrics.matched_similarity(own, twin), prompts, pairs_each=1),
        )
        for name, own, twin in zip(("drift_dino", "drift_clip_i"), adapted, base, strict=True)
    ]


def measure_pres(subject: EmbeddedSubject) -> Score:
    """Returns DreamBooth's prior-preservation score of class images: their DINO similarity to the subject."""
    similarity = metrics.reference_similarity(subject.photos_dino, subject.images.dino)
    photos = len(subject.photos_dino)
    by_prompt = metrics.mean_by_prompt(similarity, subject.images.prompts, pairs_each=photos)
    return Score(name="pres", by_prompt=by_prompt, photos=photos)


def _fidelity(subject: EmbeddedSubject, sources: Sequence[EmbeddedSubject]) -> list[Score]:
    prompts = torch.cat([source.images.prompts for source in sources])
    vectors = {
        "dino": (subject.photos_dino, torch.cat([source.images.dino for source in sources])),
        "clip_i": (subject.photos_clip, torch.cat([source.images.clip for source in sources])),
    }
    return [
        Score(
            name=name,
            by_prompt=metrics.mean_by_prompt(
                metrics.reference_similarity(photos, images), prompts, pairs_each=len(photos)
            ),
            photos=len(photos),
        )
        for name, (photos, images) in vectors.items()
    ]


def _class_hits(images: EmbeddedImages) -> Bool[Tensor, " G"]:
    """Each image against its own prompt under every class word: only the class differs."""
    candidates = images.class_texts[:, images.prompts].double()  # (K, G, C)
    cosines = torch.einsum("kgc,gc->gk", candidates, images.clip.double())
    own = cosines[:, [images.own_class]]
    cosines[:, images.own_class] = -2.0
    return (own > cosines).all(dim=1)


def _per_image(name: str, values: Tensor, images: EmbeddedImages, **details: Any) -> Score:
    by_prompt = metrics.mean_by_prompt(values, images.prompts, pairs_each=1)
    return Score(name=name, by_prompt=by_prompt, details=details)
