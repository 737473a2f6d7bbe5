"""What `delora-sd choose` found: checkpoints with their scores and images, and what the scores warn of. Reading only.

The file is the judge's; its fields are the contract, the judge itself is never imported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import RunFolder, read_json
from delora_sd.studio.results.images import ImageView, read_images

_FIELDS = {"step": int, "reason": str, "reference": str, "protocol": str, "is_random": bool}
_CANDIDATE = {
    "step": int, "subject": float, "subject_low": float, "subject_high": float, "prompt": float, "trained": float,
    "is_near_best": bool,
}  # fmt: skip
_GAP = 0.02
"""A memorisation gap that grows by less is noise."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """One step and its scores."""

    step: int
    subject: float
    """Against photos that were not trained on, or leaving out the nearest."""
    subject_low: float
    subject_high: float
    prompt: float
    trained: float
    """Against the trained photos: what memorising raises."""
    is_near_best: bool

    @property
    def gap(self) -> float:
        """How much more it is like the trained photos than like the others."""
        return self.trained - self.subject


@dataclass(frozen=True, kw_only=True)
class ChoiceView:
    """A choice as the page shows it."""

    step: int
    reason: str
    reference: str
    protocol: str
    is_random: bool
    checkpoints: tuple[Checkpoint, ...]
    images: tuple[ImageView, ...]
    """Of all checkpoints: the same prompts and seeds at each."""
    warnings: tuple[str, ...]


def read_choice_view(run: RunFolder) -> ChoiceView | None:
    """Returns the run's choice, None before there is one. Raises UserError for a damaged file."""
    file = run.path / "choice" / "choice.json"
    if not file.exists():
        return None
    record = check_record(read_json(file), _FIELDS, source=str(file), advice="choose again")
    checkpoints = _checkpoints(record.get("candidates"), file)
    return ChoiceView(
        step=record["step"],
        reason=record["reason"],
        reference=record["reference"],
        protocol=record["protocol"],
        is_random=record["is_random"],
        checkpoints=checkpoints,
        images=tuple(read_images(RunFolder(run.path / "choice"))),
        warnings=find_warnings(checkpoints, chosen=record["step"], has_held_out="held-out" in record["reference"]),
    )


def find_warnings(checkpoints: Sequence[Checkpoint], *, chosen: int, has_held_out: bool) -> tuple[str, ...]:
    """Returns what the scores say of overfitting and copying, a sentence each."""
    by_step = {each.step: each for each in checkpoints}
    first, last, best = checkpoints[0], checkpoints[-1], by_step.get(chosen, checkpoints[-1])
    found = []
    if not has_held_out:
        found.append("No photo was held out: learning and copying look alike. Hold one out in the first room.")
    elif best.gap > max(0.0, first.gap) + _GAP:
        found.append(
            f"Copying: at step {best.step} the images are nearer to the trained photos than to the held-out ones by "
            f"{best.gap:.3f}, at step {first.step} by {first.gap:.3f}."
        )
    if last.step > best.step and last.trained > best.trained and not last.is_near_best:
        found.append(
            f"Overfitting after step {best.step}: up to step {last.step} the score against the trained photos rises "
            f"({best.trained:.3f} to {last.trained:.3f}), that against the others falls "
            f"({best.subject:.3f} to {last.subject:.3f})."
        )
    most = max(checkpoints, key=lambda each: each.prompt)
    if best.prompt < most.prompt - _GAP and most.step < best.step:
        found.append(
            f"Prompts: step {most.step} follows them better ({most.prompt:.3f} against {best.prompt:.3f}); if contexts "
            "matter more to you than likeness, take that one."
        )
    if best.step == last.step and len(checkpoints) > 1 and last.subject > checkpoints[-2].subject:
        found.append("The last checkpoint is the best: a longer training may be better still.")
    return tuple(found)


def _checkpoints(candidates: Any, file: Path) -> tuple[Checkpoint, ...]:
    if not isinstance(candidates, list) or not candidates:
        raise UserError(f"{file}: no candidates in it; choose again")
    checked = [
        check_record(each, _CANDIDATE, source=f"{file}: candidates", advice="choose again") for each in candidates
    ]
    return tuple(Checkpoint(**{key: each[key] for key in _CANDIDATE}) for each in checked)
