"""How well what a segmenter finds agrees with the maps: one confusion matrix over a set, and its three means.

Pixels whose map says none of the classes (label 0) are left out, as CSAIL's and OpenMMLab's evaluators do.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Int, UInt8


@dataclass(frozen=True, kw_only=True)
class MapScores:
    """Shares, 0 to 1, over all pixels of a set."""

    pixel_accuracy: float
    """aAcc: of all pixels, those found right; the "accuracy" of ETHER's and DeLoRA's tables."""
    class_accuracy: float
    """mAcc: the mean over classes that occur of the share of their pixels found right."""
    miou_present: float
    """Mean intersection over union of classes that are in a map or were found (OpenMMLab)."""
    miou_all: float
    """The same with 0 for every class that is in neither (CSAIL)."""
    num_present: int
    """Classes in the first mean."""


def count_confusion(
    found: UInt8[np.ndarray, "height width"], labels: UInt8[np.ndarray, "height width"], num_labels: int
) -> Int[np.ndarray, "labels labels"]:
    """Returns the number of pixels per (label of the map, label found), both from 1."""
    known = labels > 0
    pairs = (labels[known].astype(np.int64) - 1) * num_labels + found[known] - 1
    return np.bincount(pairs, minlength=num_labels**2).reshape(num_labels, num_labels)


def score_confusion(confusion: Int[np.ndarray, "labels labels"]) -> MapScores:
    """Returns the scores of a set's matrix; all 0 where no pixel counts."""
    right, drawn, found = np.diagonal(confusion), confusion.sum(axis=1), confusion.sum(axis=0)
    union = drawn + found - right
    shares, present = right / np.maximum(union, 1), union > 0
    recalls = right[drawn > 0] / drawn[drawn > 0]
    return MapScores(
        pixel_accuracy=float(right.sum() / max(1, confusion.sum())),
        class_accuracy=float(recalls.mean()) if len(recalls) else 0.0,
        miou_present=float(shares[present].mean()) if present.any() else 0.0,
        miou_all=float(shares.mean()),
        num_present=int(present.sum()),
    )


def class_shares(confusion: Int[np.ndarray, "labels labels"]) -> list[float | None]:
    """Returns each class's intersection over union; None where it is neither in a map nor found."""
    right = np.diagonal(confusion)
    union = confusion.sum(axis=0) + confusion.sum(axis=1) - right
    return [float(r / u) if u else None for r, u in zip(right, union, strict=True)]
