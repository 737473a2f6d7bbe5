"""The curve a checkpoint is chosen by: subject and prompt scores over the steps."""

from collections.abc import Sequence
from typing import Any

from delora_eval.choice.rule import Candidate
from delora_eval.pages.drawing import SOFT, Drawing, draw, look


def curve_figure(candidates: Sequence[Candidate], *, chosen: int, reference: str) -> Drawing:
    """Returns both scores of every checkpoint; the chosen step is the dashed line."""
    steps = [candidate.step for candidate in candidates]

    def paint(figure: Any, axes: list[Any]) -> None:
        subject, prompt = axes
        unseen = look(0)
        subject.plot(steps, [each.subject for each in candidates], label="held-out or left out", **unseen)
        low, high = [each.subject_low for each in candidates], [each.subject_high for each in candidates]
        subject.fill_between(steps, low, high, color=unseen["color"], alpha=0.13, linewidth=0)
        subject.plot(steps, [each.trained for each in candidates], label="trained photos", linestyle=":", **look(1))
        subject.set_title("subject score", loc="left")
        subject.legend(fontsize=8)
        prompt.plot(steps, [each.prompt for each in candidates], **look(2))
        prompt.set_title("prompt score", loc="left")
        for axis in axes:
            axis.axvline(chosen, color=SOFT, linestyle=(0, (4, 3)), linewidth=1)
            axis.set_xlabel("step")

    return draw(
        "curve",
        "The checkpoint that was chosen",
        f"Step {chosen}. Subject: against {reference}, 95% bootstrap interval over images.",
        paint,
        panels=2,
    )
