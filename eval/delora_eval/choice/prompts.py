"""Which prompts choose and which report: never the same."""

from collections.abc import Sequence

from delora_sd.errors import UserError

EVERY = 5
"""Every fifth prompt of a list chooses, the others report: 5 and 20 of the benchmark's 25."""

SEED_OFFSET = 1_000_000
"""Images that choose start from other noise than any image of a report."""


def split_prompts(templates: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns (those that choose, those that report).

    Raises:
        UserError: fewer than two prompts cannot be on both sides.
    """
    if len(templates) < 2:
        raise UserError(
            f"prompts: {len(templates)} prompt; a checkpoint is chosen on some and reported on others: give 2"
        )
    choosing = tuple(templates[::EVERY])
    return choosing, tuple(template for template in templates if template not in choosing)
