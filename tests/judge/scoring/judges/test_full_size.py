"""The whole wide set at full size, with random weights. Minutes; scripts/test_slow.sh runs it."""

import multiprocessing

import pytest

import bench_judges
from delora_eval.scoring.judges.family import FAMILY, WIDE


@pytest.mark.slow
def test_the_wide_set_scores_eight_images_within_24_gib():
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        _, costs, peak_gib = pool.apply(bench_judges.measure, (WIDE, 8))
    assert {FAMILY[name].encoder for name in WIDE} == costs.keys()
    assert all(cost["images"] >= 8 for cost in costs.values())
    assert peak_gib < 24
