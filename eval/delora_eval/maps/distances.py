"""Distances between two sets of images by their features: FID (Heusel et al. 2017) and KID (Binkowski et al. 2018)."""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from delora_sd.errors import UserError

FEWEST_PER_FEATURE = 0.9
"""FID estimates a covariance of all features; the paper's 2,000 images of 2,048 features are the fewest accepted."""

NUM_SUBSETS = 50
"""Halves of the sets, drawn anew; KID's spread is over them."""

Features = Float[np.ndarray, "_ features"]


@dataclass(frozen=True, kw_only=True)
class Distances:
    """Between images and photos, equally many."""

    fid: float | None
    """None: too few images for it; with fewer it says little but their number."""
    kid: float
    """Of the whole sets, unbiased; may be below 0."""
    kid_spread: float
    """Standard deviation over halves of the sets."""
    num_images: int
    fewest_for_fid: int


def measure_distances(images: Features, photos: Features) -> Distances:
    """Returns both distances. Raises UserError for sets of different sizes: FID's bias depends on the number."""
    if len(images) != len(photos):
        raise UserError(f"FID: {len(images)} images and {len(photos)} photos; expected as many of one as of the other")
    is_enough = len(images) >= fewest_images(images.shape[1])
    return Distances(
        fid=frechet_distance(images, photos) if is_enough else None,
        kid=kernel_distance(images, photos),
        kid_spread=_spread(images, photos),
        num_images=len(images),
        fewest_for_fid=fewest_images(images.shape[1]),
    )


def fewest_images(num_features: int) -> int:
    """Returns the fewest images that FID is measured with."""
    return int(FEWEST_PER_FEATURE * num_features)


def frechet_distance(first: Features, second: Features) -> float:
    """Returns |mu1 - mu2|^2 + tr(C1 + C2 - 2 (C1 C2)^(1/2)), covariances over N - 1."""
    means = first.mean(axis=0), second.mean(axis=0)
    one, two = (np.cov(features, rowvar=False).reshape(features.shape[1], -1) for features in (first, second))
    roots = np.sqrt(np.linalg.eigvals(one @ two).astype(np.complex128)).real
    return float(((means[0] - means[1]) ** 2).sum() + np.trace(one) + np.trace(two) - 2 * roots.sum())


def kernel_distance(first: Features, second: Features) -> float:
    """Returns the unbiased squared maximum mean discrepancy under the kernel (x.y / d + 1)^3."""
    within = [
        (_kernel(own, own).sum() - np.trace(_kernel(own, own))) / (len(own) * (len(own) - 1)) for own in (first, second)
    ]
    return float(sum(within) - 2 * _kernel(first, second).mean())


def _kernel(first: Features, second: Features) -> np.ndarray:
    return (first @ second.T / first.shape[1] + 1) ** 3


def _spread(images: Features, photos: Features) -> float:
    half, rng = len(images) // 2, np.random.default_rng(0)
    if half < 2:
        return float("nan")
    draws = [[rng.choice(len(own), half, replace=False) for own in (images, photos)] for _ in range(NUM_SUBSETS)]
    return float(np.std([kernel_distance(images[first], photos[second]) for first, second in draws]))
