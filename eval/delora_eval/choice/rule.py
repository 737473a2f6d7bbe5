"""Scores of checkpoints in, one step and the reason out. Numbers only; no total score of subject and prompt."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from delora_eval.scoring.measures.statistics import bootstrap_mean, paired_difference

SEED = 0
"""Of the bootstrap: the same scores choose the same step."""

Scores = Mapping[int, Mapping[str, float]]
"""{step: {image: score}}; the same images (prompt and seed) at every step."""


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A checkpoint and what was found of it."""

    step: int
    subject: float
    subject_low: float
    subject_high: float
    """95% bootstrap interval over images."""
    prompt: float
    trained: float
    """The subject score against the photos that were trained on: shown, never chosen by."""
    is_near_best: bool
    """The best subject score beats it by no more than the images' noise."""


def judge_candidates(subject: Scores, prompt: Scores, trained: Scores) -> list[Candidate]:
    """Returns what is known of every step, ascending."""
    best = max(sorted(subject), key=lambda step: _mean(subject[step]))
    found = []
    for step in sorted(subject):
        estimate = bootstrap_mean(subject[step], seed=SEED)
        lead = paired_difference(subject[best], subject[step], seed=SEED)
        found.append(
            Candidate(
                step=step,
                subject=estimate.mean,
                subject_low=estimate.low,
                subject_high=estimate.high,
                prompt=_mean(prompt[step]),
                trained=_mean(trained[step]),
                is_near_best=step == best or not lead.excludes_zero,
            )
        )
    return found


def pick(candidates: Sequence[Candidate]) -> tuple[Candidate, str]:
    """Returns the step that follows its prompts best among those as good as the best in subject score, and why."""
    best = max(candidates, key=lambda candidate: (candidate.subject, -candidate.step))
    near = [candidate for candidate in candidates if candidate.is_near_best]
    chosen = max(near, key=lambda candidate: (candidate.prompt, -candidate.step))
    if len(near) == 1:
        why = (
            f"its subject score {chosen.subject:.3f} is higher than that of every other step, beyond the images' noise"
        )
    else:
        why = (
            f"the subject scores of {len(near)} steps ({', '.join(str(each.step) for each in near)}) cannot be told "
            f"from the best, {best.subject:.3f} at step {best.step}; of these it follows its prompts best, "
            f"{chosen.prompt:.3f}"
        )
    return chosen, f"step {chosen.step}: {why}"


def leave_one_out(photos: Float[Tensor, "R D"], images: Float[Tensor, "G D"]) -> Float[Tensor, " G"]:
    """Returns each image's mean cosine to all photos but the one nearest to it: a copy gains nothing by what it copies.

    The stand-in where no photo was held out; every photo was trained on, so it flatters all steps alike.
    """
    cosines = images.double() @ photos.double().T
    return (cosines.sum(dim=1) - cosines.max(dim=1).values) / (len(photos) - 1)


def by_image(keys: Sequence[str], values: Tensor) -> dict[str, float]:
    return dict(zip(keys, values.tolist(), strict=True))


def _mean(scores: Mapping[str, float]) -> float:
    return sum(scores.values()) / len(scores)
