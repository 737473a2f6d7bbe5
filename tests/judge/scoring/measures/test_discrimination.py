"""AUC, retrieval and agreement against the definitions written as loops, and against the field's own packages."""

import itertools
import math

import krippendorff
import numpy as np
import pytest

from delora_eval.scoring.measures.agreement import kendall_tau, krippendorff_alpha, like_ratings
from delora_eval.scoring.measures.discrimination import (
    Gallery,
    own_ranks,
    retrieve,
    same_subject_auc,
    subject_similarity,
)

SUBJECTS = ("cat", "cat", "cat", "cat2", "cat2", "dog", "dog", "dog", "dog", "can")
GROUPS = ("cat", "cat", "cat", "cat", "cat", "dog", "dog", "dog", "dog", "can")


def make_gallery(seed: int = 0, *, signal: float = 0.6) -> Gallery:
    """Similarities with some identity in them, some ties, and no symmetry."""
    rng = np.random.default_rng(seed)
    same = np.equal.outer(np.array(SUBJECTS), np.array(SUBJECTS))
    noise = np.round(rng.normal(0, 0.5, same.shape), 1)
    return Gallery(similarity=signal * same + noise, subjects=SUBJECTS, groups=GROUPS)


def loop_auc(gallery: Gallery, *, within: bool) -> float:
    """Every same-subject pair against every other pair, one by one."""
    pairs = [(i, j) for i, j in itertools.permutations(range(len(SUBJECTS)), 2)]
    rivals = [(i, j) for i, j in pairs if SUBJECTS[i] != SUBJECTS[j] and (not within or GROUPS[i] == GROUPS[j])]
    asked = {SUBJECTS[i] for i, _ in rivals}
    same = [(i, j) for i, j in pairs if SUBJECTS[i] == SUBJECTS[j] and SUBJECTS[i] in asked]
    values = gallery.similarity
    wins = [(values[p] > values[q]) + 0.5 * (values[p] == values[q]) for p in same for q in rivals]
    return sum(wins) / len(wins)


@pytest.mark.parametrize("within", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_auc_is_the_share_of_won_pairs(seed: int, within: bool):
    gallery = make_gallery(seed)
    estimate = same_subject_auc(gallery, within_groups=within, seed=0)
    assert estimate.mean == pytest.approx(loop_auc(gallery, within=within), abs=1e-6)
    assert estimate.low <= estimate.mean <= estimate.high


def test_auc_agrees_with_scikit_learn():
    from sklearn.metrics import roc_auc_score

    gallery = make_gallery(5)
    off = ~np.eye(len(SUBJECTS), dtype=bool)
    same = np.equal.outer(np.array(SUBJECTS), np.array(SUBJECTS))
    assert same_subject_auc(gallery, within_groups=False, seed=0).mean == pytest.approx(
        roc_auc_score(same[off], gallery.similarity[off]), abs=1e-9
    )


def test_the_interval_of_an_auc_is_over_subjects_not_pairs():
    """Twice the photos of each subject bring more pairs and no more subjects: the interval stays."""

    def estimate(photos: int):
        subjects = tuple(name for name in "abcd" for _ in range(photos))
        own = np.array([{"a": 0.9, "b": 0.4, "c": 0.8, "d": 0.3}[name] for name in subjects])
        same = np.equal.outer(np.array(subjects), np.array(subjects))
        gallery = Gallery(similarity=np.where(same, own[:, None], 0.5), subjects=subjects, groups=subjects)
        return same_subject_auc(gallery, within_groups=False, seed=0)

    few, many = estimate(3), estimate(6)
    assert few.mean == many.mean == 0.5 and few.low < 0.2 and few.high > 0.8
    assert (many.low, many.high, many.count) == pytest.approx((few.low, few.high, 4))


def test_one_subject_has_no_auc_and_no_rank():
    alone = Gallery(similarity=np.eye(3), subjects=("cat",) * 3, groups=("cat",) * 3)
    assert same_subject_auc(alone, within_groups=False, seed=0) is None
    assert retrieve(alone, within_groups=False, seed=0) is None
    strangers = Gallery(similarity=np.eye(4), subjects=("a", "a", "b", "b"), groups=("a", "a", "b", "b"))
    assert same_subject_auc(strangers, within_groups=True, seed=0) is None
    assert retrieve(strangers, within_groups=True, seed=0) is None


@pytest.mark.parametrize("within", [False, True])
def test_retrieval_is_the_loop_over_photos(within: bool):
    gallery, ranks, margins = make_gallery(3), {}, {}
    for i, (subject, group) in enumerate(zip(SUBJECTS, GROUPS, strict=True)):
        means = {}
        for other in set(SUBJECTS):
            photos = [j for j in range(len(SUBJECTS)) if SUBJECTS[j] == other and j != i]
            if photos and (not within or GROUPS[photos[0]] == group):
                means[other] = sum(gallery.similarity[i, j] for j in photos) / len(photos)
        rivals = [value for name, value in means.items() if name != subject]
        if subject in means and rivals:
            ranks.setdefault(subject, []).append(1 + sum(value >= means[subject] for value in rivals))
            margins.setdefault(subject, []).append(means[subject] - max(rivals))
    found = retrieve(gallery, within_groups=within, seed=0)

    def over_subjects(values) -> float:
        return float(np.mean([np.mean(own) for own in values]))

    assert found.top1.mean == pytest.approx(over_subjects([[r == 1 for r in own] for own in ranks.values()]), abs=1e-6)
    assert found.reciprocal_rank.mean == pytest.approx(
        over_subjects([[1 / r for r in own] for own in ranks.values()]), abs=1e-6
    )
    assert found.margin.mean == pytest.approx(over_subjects(margins.values()), abs=1e-6)


def test_a_tie_counts_against_the_judge():
    likeness = np.array([[0.5, 0.5, 0.1], [0.9, 0.2, np.nan]])
    assert own_ranks(likeness, np.array([0, 0])).tolist() == [2, 1]


def test_a_photo_is_never_compared_with_itself():
    similarity = np.array([[9.0, 0.2, 0.4], [0.2, 9.0, 0.6], [0.4, 0.6, 9.0]])
    means = subject_similarity(similarity, np.array([0, 0, 1]), leaves_out_self=True)
    assert means[0].tolist() == [0.2, 0.4] and math.isnan(means[2, 1])


def loop_alpha(ratings: np.ndarray) -> float:
    """Krippendorff 2004: mean squared difference within items over that between any two ratings."""
    items = [[value for value in column if not math.isnan(value)] for column in ratings.T]
    items = [values for values in items if len(values) > 1]
    everything = [value for values in items for value in values]
    n = len(everything)
    observed = sum((a - b) ** 2 / (len(values) - 1) for values in items for a, b in itertools.permutations(values, 2))
    expected = sum((a - b) ** 2 for a, b in itertools.permutations(everything, 2)) / (n - 1)
    return 1 - observed / expected


@pytest.mark.parametrize("seed", range(4))
def test_alpha_is_krippendorffs_with_missing_ratings(seed: int):
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, 5, 40)
    ratings = np.clip(truth + rng.integers(-1, 2, (3, 40)), 0, 4).astype(float)
    ratings[rng.random(ratings.shape) < 0.3] = np.nan
    assert krippendorff_alpha(ratings) == pytest.approx(loop_alpha(ratings), abs=1e-6)
    theirs = krippendorff.alpha(reliability_data=ratings, level_of_measurement="interval")
    assert krippendorff_alpha(ratings) == pytest.approx(theirs, abs=1e-6)


@pytest.mark.parametrize("seed", range(4))
def test_tau_is_kendalls_with_ties(seed: int):
    from scipy.stats import kendalltau

    rng = np.random.default_rng(seed)
    first, second = rng.integers(0, 5, 30).astype(float), rng.normal(size=30).round(1)
    assert kendall_tau(first, second) == pytest.approx(kendalltau(first, second).statistic, abs=1e-6)


def test_raters_who_never_differ_say_nothing():
    assert math.isnan(krippendorff_alpha(np.ones((2, 5))))
    assert math.isnan(kendall_tau(np.ones(4), np.arange(4)))


def test_a_judge_on_another_scale_can_still_agree_wholly():
    ratings = np.array([0.0, 1, 2, 3, 4, 4])
    scores = 0.3 + 0.05 * ratings
    assert krippendorff_alpha(np.stack([ratings, like_ratings(scores, ratings)])) == pytest.approx(1)
