"""Two rows compared subject by subject, and the verdicts that follow from the comparisons by a rule."""

from collections.abc import Sequence
from dataclasses import dataclass

from delora_eval.benchmark.report.numbers.rows import BOOTSTRAP_SEED, Row, RowScore
from delora_eval.scoring.measures.statistics import Estimate, paired_difference

SCORES = ("dino", "context_accuracy")
"""Subject and context, always side by side: overfitting raises the first and lowers the second."""

WORDS = dict(zip(SCORES, ("subject", "context"), strict=True))


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Paired differences of two rows over the subjects both have, in the order of SCORES."""

    text: str
    estimates: tuple[Estimate, ...]


def compare(ours: Row, theirs: Row) -> Gap:
    """`DeLoRA − LoRA: subject +0.012 [-0.010, +0.034] (no difference shown), context ...`."""
    return compare_scores(ours.title, ours.scores, theirs.title, theirs.scores)


def compare_scores(our_name: str, ours: dict[str, RowScore], their_name: str, theirs: dict[str, RowScore]) -> Gap:
    """The same of scores that stand in no row, such as those of another checkpoint."""
    return compare_subjects(
        our_name,
        {score: ours[score].by_subject for score in SCORES},
        their_name,
        {score: theirs[score].by_subject for score in SCORES},
    )


def compare_subjects(
    our_name: str, ours: dict[str, dict[str, float]], their_name: str, theirs: dict[str, dict[str, float]]
) -> Gap:
    """The same of {score: {subject: value}}."""
    estimates = tuple(paired_difference(ours[score], theirs[score], seed=BOOTSTRAP_SEED) for score in SCORES)
    parts = [
        f"{word} {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] ({sign(gap)})"
        for word, gap in zip(WORDS.values(), estimates, strict=True)
    ]
    return Gap(text=f"{our_name} − {their_name}: {', '.join(parts)}", estimates=estimates)


def sign(gap: Estimate) -> str:
    """Returns what a paired interval shows: nothing, unless it leaves out 0."""
    if not gap.excludes_zero:
        return "no difference shown"
    return "higher" if gap.mean > 0 else "lower"


def not_below(gaps: Sequence[Gap]) -> str:
    """The verdict on "at least as good as": nothing may be lower."""
    signs = {sign(estimate) for gap in gaps for estimate in gap.estimates}
    return "Does not hold here" if "lower" in signs else "Holds here, as far as this sample shows a difference"


def above(gaps: Sequence[Gap]) -> str:
    """The verdict on "better than": every score of every comparison higher."""
    signs = [sign(estimate) for gap in gaps for estimate in gap.estimates]
    higher, lower = signs.count("higher"), signs.count("lower")
    if higher == len(signs):
        return "Holds here"
    if not higher and not lower:
        return "Not shown here: no comparison differs"
    if not higher:
        return "Does not hold here"
    return f"Holds here in part: {higher} of {len(signs)} comparisons are higher, {lower or 'none'} lower"
