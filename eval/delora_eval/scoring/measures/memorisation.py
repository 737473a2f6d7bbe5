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

CROP_SLACK = 1e-4
"""A crop must be this much more alike than the photos' own crops are: two patches of one white wall are alike too."""


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
    pictures = subject.pictures
    sides = {
        "dino": (subject.photos_dino, subject.held_out_dino, pictures.dino),
        "clip_i": (subject.photos_clip, subject.held_out_clip, pictures.clip),
    }
    held_out, memorised = [], []
    for name, (photos, unseen, images) in sides.items():
        similarity = metrics.reference_similarity(unseen, images)
        real = real_gap(photos, unseen)
        gap = metrics.reference_similarity(photos, images) - similarity - real
        by_prompt = metrics.mean_by_prompt(similarity, pictures.prompts, pairs_each=len(unseen))
        held_out.append(Score(name=f"{name}_held_out", by_prompt=by_prompt, photos=len(unseen)))
        by_prompt = metrics.mean_by_prompt(gap, pictures.prompts, pairs_each=1)
        details = {"real_gap": round(real, 6)}
        memorised.append(Score(name=f"memorised_{name}", by_prompt=by_prompt, photos=len(photos), details=details))
    return held_out + memorised


def real_gap(photos: Float[Tensor, "R D"], held_out: Float[Tensor, "H D"]) -> float:
    """Returns how much more alike the trained photos are to each other than to the held-out ones."""
    among = metrics.self_similarity(photos, keeps_self_pairs=False).value
    return among - metrics.reference_similarity(held_out, photos).mean().item()


def find_copies(photos: Float[Tensor, "R D"], images: Float[Tensor, "G D"], *, threshold: float) -> list[Copy]:
    """Returns the images at least as near to a photo as the threshold, each with the photo it is nearest to."""
    nearest = (images.double() @ photos.double().T).max(dim=1)
    return [
        Copy(image=row, photo=photo, similarity=value, threshold=threshold, side=1.0)
        for row, (value, photo) in enumerate(zip(nearest.values.tolist(), nearest.indices.tolist(), strict=True))
        if value >= threshold
    ]


def find_copied_parts(
    photos: Sequence[Float[Tensor, "R W D"]], images: Sequence[Float[Tensor, "G W D"]], sides: Sequence[float]
) -> list[Copy]:
    """Returns the images of which some part repeats a part of a photo, wherever either of them lies.

    One tensor per size of the windows. The threshold of a size comes from the photos: the two most alike windows of two
    different photos. Of several sizes that exceed theirs the one that does so most is told.
    """
    best: dict[int, Copy] = {}
    for photo_windows, image_windows, side in zip(photos, images, sides, strict=True):
        threshold = _closest_windows(photo_windows) + CROP_SLACK
        for row, windows in enumerate(image_windows):
            by_photo = torch.einsum("wd,rvd->wrv", windows.double(), photo_windows.double()).amax(dim=(0, 2))
            value, photo = by_photo.max(dim=0)
            found = Copy(image=row, photo=int(photo), similarity=value.item(), threshold=round(threshold, 6), side=side)
            known = best.get(row)
            if found.similarity > threshold and (known is None or _excess(found) > _excess(known)):
                best[row] = found
    return [best[row] for row in sorted(best)]


def measure_copied_parts(copies: Sequence[Copy], prompts: Int[Tensor, "G"], *, photos: int) -> Score:
    """Returns the share of images with a copied part."""
    hits = torch.zeros(len(prompts), dtype=torch.bool)
    hits[[copy.image for copy in copies]] = True
    return Score(name="part_copy_rate", by_prompt=metrics.mean_by_prompt(hits, prompts, pairs_each=1), photos=photos)


def _excess(copy: Copy) -> float:
    return copy.similarity - copy.threshold


def _closest_windows(photos: Float[Tensor, "R W D"]) -> float:
    """The cosine of the two most alike windows of two different photos; 1 when there is only one photo."""
    if len(photos) < 2:
        return 1.0
    cosines = torch.einsum("rwd,svd->rswv", photos.double(), photos.double()).amax(dim=(2, 3))
    return cosines.fill_diagonal_(-1).max().item()
