"""How sure a number is: over seeds, over subjects, and between two methods on the same subjects. No tensors."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from delora_sd.errors import UserError

NUM_RESAMPLES = 10_000
"""Bootstrap resamples; the ends of a 95% interval then repeat to about 1% of its width."""


@dataclass(frozen=True, kw_only=True)
class Spread:
    """Values of one score over seeds."""

    mean: float
    best: float
    std: float
    """Sample standard deviation (n - 1); nan for one value."""
    count: int


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean and its bootstrap confidence interval."""

    mean: float
    low: float
    high: float
    level: float
    count: int
    """Subjects it is over; with fewer than about five the interval is too narrow."""

    @property
    def excludes_zero(self) -> bool:
        """True for a difference that the sample of subjects does not explain away."""
        return self.low > 0 or self.high < 0


def summarise_seeds(values: Sequence[float], *, higher_is_better: bool) -> Spread:
    """Returns mean, best and sample std of one score over seeds."""
    if not values:
        raise UserError("statistics: no values to summarise")
    return Spread(
        mean=float(np.mean(values)),
        best=float(max(values) if higher_is_better else min(values)),
        std=float(np.std(values, ddof=1)) if len(values) > 1 else float("nan"),
        count=len(values),
    )


def bootstrap_mean(values: Mapping[str, float], *, seed: int, level: float = 0.95) -> Estimate:
    """Returns the mean over subjects with its percentile bootstrap interval (Efron 1979), resampling subjects.

    `values` is {subject: score, mean over its seeds}. The order of the subjects does not matter.
    """
    if not values:
        raise UserError("statistics: no subjects to average over")
    sample = np.array([values[name] for name in sorted(values)])
    low, high = np.quantile(sample[_resamples(seed, len(sample))].mean(axis=1), [(1 - level) / 2, (1 + level) / 2])
    return Estimate(mean=float(sample.mean()), low=float(low), high=float(high), level=level, count=len(sample))


@lru_cache(maxsize=2)
def _resamples(seed: int, count: int) -> np.ndarray:
    """Which subjects each resample holds, (resamples, count): the rows of one table draw the same ones."""
    return np.random.default_rng(seed).integers(count, size=(NUM_RESAMPLES, count))


def paired_difference(
    ours: Mapping[str, float], theirs: Mapping[str, float], *, seed: int, level: float = 0.95
) -> Estimate:
    """Returns the mean of ours - theirs over the subjects both have, with its interval.

    Pairing removes the spread between easy and hard subjects, which is larger than any method's gain.
    """
    common = ours.keys() & theirs.keys()
    if not common:
        raise UserError("statistics: two methods without a common subject cannot be compared")
    return bootstrap_mean({name: ours[name] - theirs[name] for name in common}, seed=seed, level=level)
