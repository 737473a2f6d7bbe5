"""Spreads and intervals."""

import math

import numpy as np
import pytest

from delora_eval.scoring.measures.statistics import bootstrap_mean, paired_difference, summarise_seeds
from delora_sd.errors import UserError


def test_spread_over_seeds_is_mean_best_and_sample_deviation():
    spread = summarise_seeds([0.6, 0.7, 0.8], higher_is_better=True)
    assert (spread.mean, spread.best, spread.std) == pytest.approx((0.7, 0.8, 0.1))
    assert summarise_seeds([0.6, 0.7], higher_is_better=False).best == 0.6
    assert math.isnan(summarise_seeds([0.6], higher_is_better=True).std)


def test_bootstrap_interval_matches_the_normal_one_for_many_subjects():
    values = dict(enumerate(np.random.default_rng(0).normal(0.7, 0.1, 200)))
    estimate = bootstrap_mean({f"subject{i}": value for i, value in values.items()}, seed=0)
    half = 1.96 * np.std(list(values.values())) / math.sqrt(200)
    assert estimate.mean == pytest.approx(np.mean(list(values.values())))
    assert estimate.high - estimate.mean == pytest.approx(half, rel=0.1)
    assert estimate.mean - estimate.low == pytest.approx(half, rel=0.1)


def test_bootstrap_repeats_with_its_seed_and_ignores_the_order_of_subjects():
    values = {"dog": 0.51, "cat": 0.93, "can": 0.62, "toy": 0.74, "vase": 0.35, "clock": 0.67}
    assert bootstrap_mean(values, seed=1) == bootstrap_mean(dict(reversed(values.items())), seed=1)
    assert bootstrap_mean(values, seed=1) != bootstrap_mean(values, seed=2)


def test_pairing_finds_a_small_gain_under_a_large_spread_of_subjects():
    rng = np.random.default_rng(0)
    theirs = {f"s{i}": value for i, value in enumerate(rng.uniform(0.3, 0.9, 30))}
    ours = {name: value + 0.01 + rng.normal(0, 0.005) for name, value in theirs.items()}
    difference = paired_difference(ours, theirs, seed=0)
    assert difference.excludes_zero and difference.low > 0
    overlap = bootstrap_mean(ours, seed=0).low < bootstrap_mean(theirs, seed=0).high
    assert overlap


def test_difference_is_over_common_subjects_only():
    difference = paired_difference({"dog": 1.0, "cat": 0.0}, {"dog": 0.5, "can": 9.0}, seed=0)
    assert (difference.mean, difference.count) == (0.5, 1)
    with pytest.raises(UserError, match="common subject"):
        paired_difference({"dog": 1.0}, {"cat": 1.0}, seed=0)
