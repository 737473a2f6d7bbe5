"""Learned or copied: scores against photos no training saw, and images that repeat one that it did.

Unit vectors in, scores out. Shapes: R trained photos, H held-out photos, G images, W windows of one size, D dimensions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from delora_eval.scoring.measures import metrics
from delora_eval.scoring.measures.measure import EmbeddedSubject, Score


@dataclass(frozen=True, kw_only=True)
class Copy:
    """An image, or a part of it, that repeats a trained photo."""

    image: int
    photo: int
    similarity: float
    threshold: float
    side: float
    """Side of the part that is repeated, as a share of the image; 1: the whole image."""


def measure_held_out(subject: EmbeddedSubject) -> list[Score]:
    """Returns [dino_held_out, clip_i_held_out, memorised_dino, memorised_clip_i]; [] when nothing is held out.

    Memorised: how much more an image is like the trained photos than like the held-out ones, less the same difference
    among the real photos, which only says how odd the held-out ones are. 0: learned. Above 0: copied.
    """
    if subject.held_out_dino is None or subject.held_out_clip is None:
        return []
    seen = subject.images
    sides = {
        "dino": (subject.photos_dino, subject.held_out_dino, seen.dino),
        "clip_i": (subject.photos_clip, subject.held_out_clip, seen.clip),
    }
    held_out, memorised = [], []
    for name, (photos, unseen, images) in sides.items():
        similarity = metrics.reference_similarity(unseen, images)
        real = real_gap(photos, unseen)
        gap = metrics.reference_similarity(photos, images) - similarity - real
        by_prompt = metrics.mean_by_prompt(similarity, seen.prompts, pairs_each=len(unseen))
        held_out.append(Score(name=f"{name}_held_out", by_prompt=by_prompt, photos=len(unseen)))
        by_prompt = metrics.mean_by_prompt(gap, seen.prompts, pairs_each=1)
        details = {"real_gap": round(real, 6)}
        memorised.append(Score(name=f"memorised_{name}", by_prompt=by_prompt, photos=len(photos), details=details))
    return held_out + memorised


def real_gap(photos: Float[Tensor, "R D"], held_out: Float[Tensor, "H D"]) -> float:
    """Returns how much more alike the trained photos are to each other than to the held-out ones."""
    among = metrics.self_similarity(photos, keeps_self_pairs=False).value
    return among - metrics.reference_similarity(held_out, photos).mean().item()


def find_copies(
    photos: Sequence[Float[Tensor, "R _ D"]], images: Sequence[Float[Tensor, "G _ D"]], sides: Sequence[float]
) -> list[Copy]:
    """Returns the images that repeat a photo, whole or in part, wherever either part lies.

    One tensor per size of the windows. The threshold of a size comes from the photos: half way from the two most alike
    windows of two different photos to identity. An honest image may be as near to a photo as photos are to each other,
    and with several photos to be near to it often is; a copy is nearer. Of several sizes that exceed theirs the
    first is told: give the largest first.
    """
    found: dict[int, Copy] = {}
    for photo_windows, image_windows, side in zip(photos, images, sides, strict=True):
        threshold = (1 + _closest_windows(photo_windows)) / 2
        for row, windows in enumerate(image_windows):
            by_photo = torch.einsum("wd,rvd->wrv", windows.double(), photo_windows.double()).amax(dim=(0, 2))
            value, photo = by_photo.max(dim=0)
            if value > threshold and row not in found:
                found[row] = Copy(image=row, photo=int(photo), similarity=value.item(), threshold=threshold, side=side)
    return [found[row] for row in sorted(found)]


def measure_copy_risk(copies: Sequence[Copy], prompts: Int[Tensor, " G"], *, photos: int) -> Score:
    """Returns the share of images that repeat a photo, whole or in part."""
    hits = torch.zeros(len(prompts), dtype=torch.bool)
    hits[[copy.image for copy in copies]] = True
    return Score(name="copy_risk", by_prompt=metrics.mean_by_prompt(hits, prompts, pairs_each=1), photos=photos)


def _closest_windows(photos: Float[Tensor, "R W D"]) -> float:
    """The cosine of the two most alike windows of two different photos; 1 when there is only one photo."""
    if len(photos) < 2:
        return 1.0
    cosines = torch.einsum("rwd,svd->rswv", photos.double(), photos.double()).amax(dim=(2, 3))
    return min(1.0, cosines.fill_diagonal_(-1).max().item())
