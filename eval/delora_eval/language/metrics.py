"""GLUE's metrics from scikit-learn and scipy, in percent, and how sure a score on so few items is."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from delora_sd.language.data.packages import need

NUM_RESAMPLES = 1000

Values = np.ndarray

METRICS = {
    "mnli": ("accuracy",),
    "sst2": ("accuracy",),
    "mrpc": ("accuracy", "f1"),
    "cola": ("matthews",),
    "qnli": ("accuracy",),
    "qqp": ("accuracy", "f1"),
    "rte": ("accuracy",),
    "stsb": ("pearson", "spearman", "pearson_spearman"),
}
"""{task: its metrics, first what the authors' code chooses by}."""

REPORTED = {task: metrics[0] for task, metrics in METRICS.items()} | {"stsb": "pearson_spearman"}
"""What the paper's tables show: of MRPC and QQP accuracy, of STS-B the mean of both correlations."""

BENCHMARK_COLUMNS = ("mmlu", "arc", "tru1", "tru2")
"""Table 5's columns, whose mean is its last: MMLU (its fields with equal weights, as harness v0.3 needed it taken by
hand), ARC Challenge (acc, not acc_norm), TruthfulQA mc1 and mc2."""

MMLU_BY_SIZE = "mmlu_by_size"
"""MMLU with every question weighing the same: what v0.4's group `mmlu` says."""


def score_predictions(task: str, outputs: Values, labels: Values) -> dict[str, float]:
    """Returns {metric: percent}, the first deciding one first.

    Args:
        outputs: Of the model: logits (items, labels), or (items, 1) of a regression.
        labels: (items,).
    """
    predicted = outputs.squeeze(-1) if task == "stsb" else outputs.argmax(axis=-1)
    return {name: 100 * _FUNCTIONS[name](labels, predicted) for name in METRICS[task]}


def item_error(task: str, outputs: Values, labels: Values, *, metric: str, seed: int) -> float:
    """Returns the standard error of a score, in points, from resampling its items (Efron 1979).

    Of an accuracy it is sqrt(p (1 - p) / n): 277 items of RTE cannot tell methods apart that differ by less.
    """
    if metric == "accuracy":
        share = float((outputs.argmax(axis=-1) == labels).mean())
        return 100 * math.sqrt(share * (1 - share) / len(labels))
    chosen = np.random.default_rng(seed).integers(len(labels), size=(NUM_RESAMPLES, len(labels)))
    predicted = outputs.squeeze(-1) if task == "stsb" else outputs.argmax(axis=-1)
    return 100 * float(np.std([_FUNCTIONS[metric](labels[rows], predicted[rows]) for rows in chosen], ddof=1))


def _accuracy(labels: Values, predicted: Values) -> float:
    return float(need("sklearn.metrics").accuracy_score(labels, predicted))


def _f1(labels: Values, predicted: Values) -> float:
    return float(need("sklearn.metrics").f1_score(labels, predicted, zero_division=0.0))


def _matthews(labels: Values, predicted: Values) -> float:
    return float(need("sklearn.metrics").matthews_corrcoef(labels, predicted))


def _pearson(labels: Values, predicted: Values) -> float:
    return _correlation(lambda stats: stats.pearsonr(predicted, labels).statistic, predicted, labels)


def _spearman(labels: Values, predicted: Values) -> float:
    return _correlation(lambda stats: stats.spearmanr(predicted, labels).statistic, predicted, labels)


def _both(labels: Values, predicted: Values) -> float:
    return (_pearson(labels, predicted) + _spearman(labels, predicted)) / 2


def _correlation(compute: Callable[[Any], float], predicted: Values, labels: Values) -> float:
    """A constant has no correlation with anything: 0, not nan, so that a dead model loses every comparison."""
    if np.ptp(predicted) == 0 or np.ptp(labels) == 0:
        return 0.0
    return float(compute(need("scipy.stats")))


_FUNCTIONS: dict[str, Callable[[Values, Values], float]] = {
    "accuracy": _accuracy,
    "f1": _f1,
    "matthews": _matthews,
    "pearson": _pearson,
    "spearman": _spearman,
    "pearson_spearman": _both,
}
