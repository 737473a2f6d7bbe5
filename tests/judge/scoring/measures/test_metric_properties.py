"""What holds for every score, whatever the images: its range, its symmetry, and that means pool exactly."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from delora_eval.scoring.measures import metrics
from delora_eval.scoring.measures.metrics import PairMean

SEEDS = st.integers(0, 2**31)
COUNTS = st.tuples(st.integers(1, 6), st.integers(1, 8), st.integers(2, 16))
"""(photos, images, dimensions)"""

ROUNDING = 1e-6
"""Of cosines of fp32 unit vectors."""


def unit_rows(seed: int, count: int, dimensions: int) -> torch.Tensor:
    rows = torch.randn(count, dimensions, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(rows, dim=1)


def vectors(seed: int, counts: tuple[int, int, int]) -> tuple[torch.Tensor, torch.Tensor]:
    num_photos, num_images, dimensions = counts
    return unit_rows(seed, num_photos, dimensions), unit_rows(seed + 1, num_images, dimensions)


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, counts=COUNTS)
def test_similarities_are_cosines_and_the_nearest_is_at_least_the_mean(seed, counts):
    photos, images = vectors(seed, counts)
    mean, nearest = metrics.reference_similarity(photos, images), metrics.nearest_similarity(photos, images)
    assert (mean.abs() <= 1 + ROUNDING).all() and (nearest.abs() <= 1 + ROUNDING).all()
    assert (nearest >= mean - ROUNDING).all()


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, counts=COUNTS)
def test_photos_and_images_may_change_places_and_order(seed, counts):
    photos, images = vectors(seed, counts)
    mean = metrics.reference_similarity(photos, images).mean()
    torch.testing.assert_close(metrics.reference_similarity(images, photos).mean(), mean)
    torch.testing.assert_close(metrics.reference_similarity(photos.flip(0), images.flip(0)).mean(), mean)
    same = metrics.matched_similarity(images, images.flip(0))
    torch.testing.assert_close(same, metrics.matched_similarity(images.flip(0), images))


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, counts=COUNTS)
def test_distances_are_symmetric_between_zero_and_two_and_zero_to_oneself(seed, counts):
    distances = metrics.cosine_distances(vectors(seed, counts)[1])
    torch.testing.assert_close(distances, distances.T)
    assert (distances >= -ROUNDING).all() and (distances <= 2 + ROUNDING).all()
    assert distances.diagonal().abs().max() <= ROUNDING


@settings(max_examples=50, deadline=None)
@given(seed=SEEDS, counts=COUNTS)
def test_the_ceiling_is_a_cosine_and_has_no_order(seed, counts):
    photos, _ = vectors(seed, counts)
    for keeps in (False, True):
        ceiling = metrics.self_similarity(photos, keeps_self_pairs=keeps)
        if not ceiling.pairs:
            continue
        assert abs(ceiling.value) <= 1 + ROUNDING
        turned = metrics.self_similarity(photos.flip(0), keeps_self_pairs=keeps)
        assert turned.value == pytest.approx(ceiling.value, abs=ROUNDING) and turned.pairs == ceiling.pairs


@settings(max_examples=50, deadline=None)
@given(values=st.lists(st.lists(st.floats(-1, 1), min_size=1, max_size=5), min_size=1, max_size=5))
def test_means_of_parts_pool_to_the_mean_of_all_pairs(values):
    parts = [PairMean(value=sum(part) / len(part), pairs=len(part), images=len(part)) for part in values]
    pooled, whole = metrics.pool(parts, "pairs"), [value for part in values for value in part]
    assert pooled.value == pytest.approx(sum(whole) / len(whole), abs=1e-12) and pooled.pairs == len(whole)
    assert min(whole) - 1e-12 <= metrics.pool(parts, "subjects").value <= max(whole) + 1e-12
