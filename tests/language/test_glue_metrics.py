"""Scores of GLUE and how sure they are, against scikit-learn, scipy and arithmetic."""

import math

import numpy as np
import pytest
from scipy.stats import pearsonr, spearmanr
from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

from delora_eval.language.metrics import METRICS, REPORTED, item_error, score_predictions

RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 2, 200)
LOGITS = RNG.normal(size=(200, 2)) + np.eye(2)[LABELS]
GRADES = RNG.uniform(0, 5, 150)
NUMBERS = (GRADES + RNG.normal(size=150))[:, None]


def test_scores_are_those_of_the_libraries_in_percent():
    predicted = LOGITS.argmax(-1)
    assert score_predictions("mrpc", LOGITS, LABELS) == {
        "accuracy": pytest.approx(100 * accuracy_score(LABELS, predicted)),
        "f1": pytest.approx(100 * f1_score(LABELS, predicted)),
    }
    assert score_predictions("cola", LOGITS, LABELS)["matthews"] == pytest.approx(
        100 * matthews_corrcoef(LABELS, predicted)
    )
    both = pearsonr(NUMBERS[:, 0], GRADES).statistic, spearmanr(NUMBERS[:, 0], GRADES).statistic
    found = score_predictions("stsb", NUMBERS, GRADES)
    assert list(found.values()) == pytest.approx([100 * both[0], 100 * both[1], 50 * sum(both)])


def test_the_authors_choose_by_the_first_metric_which_is_not_always_the_reported_one():
    first = {task: metrics[0] for task, metrics in METRICS.items()}
    assert first["mrpc"] == first["qqp"] == "accuracy" and first["cola"] == "matthews"
    assert (first["stsb"], REPORTED["stsb"]) == ("pearson", "pearson_spearman")
    assert {task for task in METRICS if first[task] != REPORTED[task]} == {"stsb"}


def test_a_model_that_answers_always_the_same_scores_zero_and_not_nan():
    assert score_predictions("stsb", np.ones((150, 1)), GRADES) == {
        "pearson": 0.0, "spearman": 0.0, "pearson_spearman": 0.0,
    }  # fmt: skip
    assert score_predictions("cola", np.tile([1.0, 0.0], (200, 1)), LABELS) == {"matthews": 0.0}


def test_the_error_of_an_accuracy_is_the_binomials_and_of_a_correlation_near_fishers():
    share = (LOGITS.argmax(-1) == LABELS).mean()
    expected = 100 * math.sqrt(share * (1 - share) / 200)
    assert item_error("rte", LOGITS, LABELS, metric="accuracy", seed=0) == pytest.approx(expected)
    r = pearsonr(NUMBERS[:, 0], GRADES).statistic
    fisher = 100 * (1 - r**2) / math.sqrt(150 - 1)
    assert item_error("stsb", NUMBERS, GRADES, metric="pearson", seed=0) == pytest.approx(fisher, rel=0.35)
