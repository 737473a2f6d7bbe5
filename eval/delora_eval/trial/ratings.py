"""DreamBench++'s human ratings (Peng et al., ICLR 2025) and how far a judge agrees with them.

The layout is that of its repository: `<group>/<method>-cp.json` and `-pf.json` hold {"<subject>-<prompt>": 0 to 4} of
one group of raters (cp: is it the subject, pf: is it the prompt), and `<method>_<settings>/` the rated images.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from delora_eval.scoring.measures.agreement import kendall_tau, krippendorff_alpha, like_ratings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json

Question = Literal["cp", "pf"]
HIGHEST = 4
"""Ratings are 0, 1, 2, 3, 4."""


@dataclass(frozen=True, kw_only=True)
class Rated:
    """One rated image: the file, its reference and its prompt."""

    image: Path
    reference: Path
    prompt: Path


@dataclass(frozen=True, kw_only=True)
class Ratings:
    """What several groups of people said about the images of one method, to one question."""

    method: str
    images: tuple[Rated, ...]
    by_group: np.ndarray
    """(groups, images), nan where a group gave no rating."""


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """How far a judge agrees with people; means over methods (and, for alpha, over groups of raters)."""

    alpha: float
    """Krippendorff's, interval, of judge and one group of raters; the judge's scores are put on the ratings' scale."""
    tau: float
    """Kendall's tau-b, judge and the groups' mean rating."""
    alpha_of_people: float
    """The groups among themselves: no judge can be asked for more."""
    images: int


def read_ratings(folder: Path, samples: Path, question: Question) -> list[Ratings]:
    """Returns the ratings of every method, [] when nobody was asked this question.

    Raises:
        UserError: no such folder, no ratings, files of another layout, or an image that is not there.
    """
    for setting, path in (("ratings", folder), ("samples", samples)):
        if not path.is_dir():
            raise UserError(f"{setting}={path}: no such folder")
    files = sorted(folder.glob(f"*/*-{question}.json"))
    if not files and question == "cp":
        raise UserError(
            f"ratings={folder}: no <group>/<method>-cp.json in it; expected DreamBench++'s merged ratings "
            "(merged_data), which its krippendorff_analysis.py makes from the raw ones"
        )
    by_method: dict[str, list[dict[str, float]]] = {}
    for file in files:
        by_method.setdefault(file.name.removesuffix(f"-{question}.json"), []).append(_read_file(file))
    return [_ratings(method, groups, _sample_folder(samples, method)) for method, groups in by_method.items()]


def agree(ratings: list[Ratings], score: Callable[[tuple[Rated, ...]], np.ndarray]) -> Agreement | None:
    """Returns a judge's agreement with people; `score` gives its scores of rated images. None without ratings."""
    if not ratings:
        return None
    alphas, taus, people = [], [], []
    for rated in ratings:
        scores = score(rated.images)
        means = _mean_rating(rated.by_group)
        for group in rated.by_group:
            alphas.append(krippendorff_alpha(np.stack([group, like_ratings(scores, group)])))
        is_rated = np.isfinite(means)
        taus.append(kendall_tau(scores[is_rated], means[is_rated]))
        people.append(krippendorff_alpha(rated.by_group))
    images = sum(len(rated.images) for rated in ratings)
    return Agreement(alpha=_mean(alphas), tau=_mean(taus), alpha_of_people=_mean(people), images=images)


def _read_file(file: Path) -> dict[str, float]:
    """Returns {"<subject>-<prompt>": rating}; null is a rating that was not given."""
    found = read_json(file)
    expected = f'expected {{"<subject>-<prompt number>": 0 to {HIGHEST}}}, as DreamBench++ of 2024 writes it'
    if not isinstance(found, dict) or not found:
        raise UserError(f"{file}: {expected}")
    ratings = {}
    for key, value in found.items():
        subject, dash, prompt = key.rpartition("-")
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        is_missing = value is None or (is_number and math.isnan(value))
        if not (dash and subject and prompt.isdigit()) or not (is_missing or (is_number and 0 <= value <= HIGHEST)):
            raise UserError(f"{file}: '{key[:80]}' is {str(value)[:40]}; {expected}: ratings of another version?")
        if not is_missing:
            ratings[key] = float(value)
    return ratings


def _sample_folder(samples: Path, method: str) -> Path:
    """`dreambooth_sd_gs7_5_...` for the method `dreambooth_sd`."""
    folders = [
        path for path in sorted(samples.iterdir()) if path.name == method or path.name.startswith(f"{method}_gs")
    ]
    if len(folders) != 1:
        found = ", ".join(path.name for path in folders) or "none"
        raise UserError(f"samples={samples}: one folder named {method} or {method}_gs... is needed, found {found}")
    return folders[0]


def _ratings(method: str, groups: list[dict[str, float]], folder: Path) -> Ratings:
    keys = sorted(set().union(*groups))
    return Ratings(
        method=method,
        images=tuple(_rated(folder, key) for key in keys),
        by_group=np.array([[group.get(key, math.nan) for key in keys] for group in groups]),
    )


def _rated(folder: Path, key: str) -> Rated:
    subject, _, prompt = key.rpartition("-")
    if "/" in subject or "\\" in subject or subject in (".", ".."):
        raise UserError(f"{folder}: '{subject[:80]}' in the ratings is no name of a subject's folder")
    rated = Rated(
        image=folder / "tgt_image" / subject / f"{prompt}_0.jpg",
        reference=folder / "src_image" / subject / f"{prompt}_0.jpg",
        prompt=folder / "text" / subject / f"{prompt}_0.txt",
    )
    for file in (rated.image, rated.reference):
        if not file.is_file():
            raise UserError(f"{file}: rated, but not there; give the samples that the ratings are of")
    return rated


def _mean_rating(by_group: np.ndarray) -> np.ndarray:
    counts = np.isfinite(by_group).sum(axis=0)
    totals = np.nansum(by_group, axis=0)
    return np.divide(totals, counts, out=np.full(totals.shape, np.nan), where=counts > 0)


def _mean(values: list[float]) -> float:
    known = [value for value in values if math.isfinite(value)]
    return sum(known) / len(known) if known else float("nan")
