"""Which sentences of GLUE's public validation sets choose, and which test: the protocols by name."""

from dataclasses import dataclass

import numpy as np

LARGE = ("mnli", "qnli", "qqp")
NUM_VALIDATION_OF_LARGE = 1000


@dataclass(frozen=True, kw_only=True)
class Protocol:
    """How the public validation set is cut, and by which metric an epoch is chosen."""

    split_seed: int | None
    """Seed of the cut; None: the seed of the fine-tuning."""
    swapped: tuple[str, ...]
    """Tasks whose first part tests and whose second chooses."""
    chosen_by: str
    """first: the first of the task's metrics. reported: what the table shows."""
    source: str


PROTOCOLS = {
    "authors": Protocol(
        split_seed=None,
        swapped=("cola",),
        chosen_by="first",
        source="ExplainableML/DeLoRA data_utils.py, taken from RED: every seed has validation and test sets of its "
        "own, so that settings chosen on one seed's validation half were chosen on sentences other seeds test",
    ),
    "clean": Protocol(
        split_seed=42,
        swapped=(),
        chosen_by="reported",
        source="ours: one cut for all seeds, so that no test sentence ever chooses and the spread is the training's",
    ),
}


def split_indices(task: str, count: int, *, protocol: str, seed: int) -> dict[str, list[int]]:
    """Returns {validation, test}: numpy's permutation, the first 1,000 of MNLI, QNLI and QQP, the first half of others.

    A set of fewer than 2,000 is halved whatever its task: the toy language's are.
    """
    rules = PROTOCOLS[protocol]
    order = np.random.RandomState(seed if rules.split_seed is None else rules.split_seed).permutation(count).tolist()
    is_large = task in LARGE and count >= 2 * NUM_VALIDATION_OF_LARGE
    num_first = NUM_VALIDATION_OF_LARGE if is_large else count // 2
    first, second = order[:num_first], order[num_first:]
    return {"validation": second, "test": first} if task in rules.swapped else {"validation": first, "test": second}
