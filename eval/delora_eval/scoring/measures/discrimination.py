"""How well a judge tells one subject from another on real photos. Similarities and names in, estimates out.

Shapes: Q queries, N photos, S subjects. A subject's similarity to a photo is the mean over the subject's photos, as in
every fidelity score; a photo is never compared with itself. Intervals are over subjects, the unit that varies.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from delora_eval.scoring.measures.statistics import Estimate, bootstrap_mean

AUC_RESAMPLES = 2_000
"""Bootstrap resamples of an AUC; the ends of its interval then repeat to about 2% of its width."""


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """Real photos under one judge, and whose they are."""

    similarity: np.ndarray
    """(N, N): row seen as the image, column as the reference. Need not be symmetric; the diagonal is never read."""
    subjects: tuple[str, ...]
    """Subject of every photo."""
    groups: tuple[str, ...]
    """Class word of every photo, or whatever makes its subject hard to tell from another."""

    @property
    def owner(self) -> np.ndarray:
        """(N,): number of every photo's subject, in the order of `names`."""
        return np.unique(self.subjects, return_inverse=True)[1]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(set(self.subjects)))

    @property
    def group_of(self) -> np.ndarray:
        """(S,): group of every subject, in the order of `names`."""
        known = dict(zip(self.subjects, self.groups, strict=True))
        return np.array([known[name] for name in self.names])


def same_subject_auc(gallery: Gallery, *, within_groups: bool, seed: int, level: float = 0.95) -> Estimate | None:
    """Returns P(two photos of one subject are more alike than photos of two subjects), over all pairs; ties count half.

    `within_groups`: the two subjects share a group. None when there is no such pair.
    """
    owner, group = gallery.owner, gallery.group_of
    rows, columns = np.nonzero(~np.eye(len(owner), dtype=bool))
    first, second = owner[rows], owner[columns]
    is_same, is_rival = first == second, first != second
    if within_groups:
        is_rival &= group[first] == group[second]
        is_same &= np.isin(first, first[is_rival])
    if not is_same.any() or not is_rival.any():
        return None
    values = gallery.similarity[rows, columns]
    area = _WeightedArea.of(values[is_same], values[is_rival])
    num_subjects = len(gallery.names)
    used = np.unique(first[is_rival | is_same])
    draws = np.random.default_rng(seed).choice(used, size=(AUC_RESAMPLES, len(used)))
    resampled = []
    for chosen in draws:
        times = np.bincount(chosen, minlength=num_subjects).astype(float)
        resampled.append(area.value(times[first[is_same]], times[first[is_rival]] * times[second[is_rival]]))
    kept = np.array([value for value in resampled if value is not None])
    low, high = np.quantile(kept, [(1 - level) / 2, (1 + level) / 2])
    mean = area.value(np.ones(is_same.sum()), np.ones(is_rival.sum()))
    return Estimate(mean=float(mean), low=float(low), high=float(high), level=level, count=len(used))


@dataclass(frozen=True, kw_only=True)
class _WeightedArea:
    """The ranks of the pairs, found once; every resample only weighs them anew."""

    same: np.ndarray
    """Rank of every same-subject pair among all distinct values."""
    rival: np.ndarray
    num_ranks: int

    @staticmethod
    def of(same: np.ndarray, rival: np.ndarray) -> "_WeightedArea":
        distinct, ranks = np.unique(np.concatenate([same, rival]), return_inverse=True)
        return _WeightedArea(same=ranks[: len(same)], rival=ranks[len(same) :], num_ranks=len(distinct))

    def value(self, same_weights: np.ndarray, rival_weights: np.ndarray) -> float | None:
        """None when a resample has no pair of one kind: a single subject, drawn again and again."""
        total = same_weights.sum() * rival_weights.sum()
        if total == 0:
            return None
        rivals = np.bincount(self.rival, weights=rival_weights, minlength=self.num_ranks)
        beaten = np.cumsum(rivals) - rivals / 2  # those below, and half of the equal ones
        return float((same_weights * beaten[self.same]).sum() / total)


@dataclass(frozen=True, kw_only=True)
class Retrieval:
    """Each photo as a query among the subjects."""

    top1: Estimate
    """Share of photos whose own subject is the nearest."""
    reciprocal_rank: Estimate
    margin: Estimate
    """Own subject's similarity minus that of the nearest other, in the judge's own unit."""


def retrieve(gallery: Gallery, *, within_groups: bool, seed: int) -> Retrieval | None:
    """Returns how well the photos find their own subject; means over subjects of the means over their photos.

    A subject with one photo is only ever a rival. None when no photo has both another of its own and a rival.
    """
    owner, group = gallery.owner, gallery.group_of
    likeness = subject_similarity(gallery.similarity, owner, leaves_out_self=True)  # (N, S)
    if within_groups:
        likeness = np.where(group[None] == group[owner][:, None], likeness, np.nan)
    own = likeness[np.arange(len(owner)), owner]
    rivals = np.isfinite(likeness).sum(axis=1) - np.isfinite(own)
    queries = np.nonzero(np.isfinite(own) & (rivals > 0))[0]
    if not len(queries):
        return None
    ranks = own_ranks(likeness[queries], owner[queries])
    margins = own[queries] - best_rival(likeness[queries], owner[queries])
    columns = {"top1": ranks == 1, "reciprocal_rank": 1 / ranks, "margin": margins}
    return Retrieval(
        **{
            name: bootstrap_mean(_by_subject(values, owner[queries], gallery.names), seed=seed)
            for name, values in columns.items()
        }
    )


def subject_similarity(similarity: np.ndarray, owner: np.ndarray, *, leaves_out_self: bool = False) -> np.ndarray:
    """Returns (Q, S): mean similarity of every row to the photos of every subject; nan where nothing is left.

    `leaves_out_self`: rows are the photos themselves, and entry (i, i) does not count.
    """
    counted = np.where(np.eye(*similarity.shape, dtype=bool), 0.0, 1.0) if leaves_out_self else np.ones_like(similarity)
    members = np.eye(owner.max() + 1)[owner]  # (N, S)
    totals = np.where(counted > 0, similarity, 0.0) @ members
    counts = counted @ members
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def own_ranks(likeness: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns (Q,): 1 for a query whose own subject is the nearest; a tie counts against it, nan is no rival."""
    mine = likeness[np.arange(len(own)), own]
    rivals = likeness.copy()
    rivals[np.arange(len(own)), own] = np.nan
    with np.errstate(invalid="ignore"):
        return 1 + (rivals >= mine[:, None]).sum(axis=1)


def best_rival(likeness: np.ndarray, own: np.ndarray) -> np.ndarray:
    """Returns (Q,): similarity to the nearest other subject."""
    rivals = likeness.copy()
    rivals[np.arange(len(own)), own] = np.nan
    return np.nanmax(rivals, axis=1)


def _by_subject(values: np.ndarray, owner: np.ndarray, names: Sequence[str]) -> dict[str, float]:
    return {names[subject]: float(values[owner == subject].mean()) for subject in np.unique(owner)}
