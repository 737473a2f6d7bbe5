"""How far two raters agree: Krippendorff's alpha and Kendall's tau, written from their definitions.

Arrays in, numbers out.
"""

import numpy as np


def krippendorff_alpha(ratings: np.ndarray) -> float:
    """Returns alpha for interval data, 1 - D_observed / D_expected (Krippendorff 2004, ch. 11); (raters, items).

    nan is a missing rating. An item rated once says nothing; nan when nothing varies.
    """
    ratings = np.asarray(ratings, dtype=np.float64)
    ratings = ratings[:, np.isfinite(ratings).sum(axis=0) >= 2]
    known = np.isfinite(ratings)
    if not known.any():
        return float("nan")
    counts = known.sum(axis=0)
    within = sum(_pair_sum(ratings[known[:, item], item]) / (counts[item] - 1) for item in range(ratings.shape[1]))
    everything = ratings[known]
    expected = _pair_sum(everything) / (len(everything) - 1)
    return float(1 - within / expected) if expected > 0 else float("nan")


def kendall_tau(first: np.ndarray, second: np.ndarray) -> float:
    """Returns tau-b (Kendall 1945): concordant minus discordant pairs, ties out of the scale; nan when all tie."""
    first, second = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    upper = np.triu_indices(len(first), k=1)
    signs = [np.sign(values[:, None] - values[None])[upper] for values in (first, second)]
    untied = [np.count_nonzero(sign) for sign in signs]
    return float((signs[0] * signs[1]).sum() / np.sqrt(untied[0] * untied[1])) if all(untied) else float("nan")


def like_ratings(scores: np.ndarray, ratings: np.ndarray) -> np.ndarray:
    """Returns a judge's scores moved and stretched to the ratings' mean and deviation: alpha compares values, and a
    cosine is on no scale of people's. What is left to disagree about is the order and the spacing."""
    spread = np.nanstd(scores)
    if spread == 0:
        return np.full_like(scores, np.nanmean(ratings))
    return (scores - np.nanmean(scores)) / spread * np.nanstd(ratings) + np.nanmean(ratings)


def _pair_sum(values: np.ndarray) -> float:
    """Sum of squared differences over all ordered pairs."""
    centred = values - values.mean()
    return float(2 * len(values) * (centred**2).sum())
