"""How far a training is, told by its folder alone: nothing is asked of the process that trains."""

from dataclasses import dataclass
from typing import Literal

from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.files.locks import holder
from delora_sd.files.run_folder import RunFolder

Standing = Literal["training", "stopped", "failed", "finished"]


@dataclass(frozen=True, kw_only=True)
class RunState:
    state: Standing
    """stopped: nobody trains it now; the same command goes on."""
    step: int
    """Last one that the folder knows of."""
    num_steps: int
    checkpoint: int | None
    """Step from which it would go on."""
    loss: float | None
    """At the last logged step."""
    holder: str | None
    """Who works in the folder now."""
    reason: str | None
    """Why it failed."""


def read_run_state(run: RunFolder) -> RunState:
    """Returns how far the training is. Raises UserError when the folder is no run."""
    if not run.config.is_file():
        raise UserError(f"{run.path} is no run folder (no {run.config.name}); run `delora-sd train` first")
    run.check_version()
    num_steps = read_run_settings(run.config).training.num_steps
    logged = [event for event in run.read_events() if "loss" in event]
    checkpoints, failure, by = run.checkpoint_steps(), run.read_failure(), holder(run.lock_file)
    steps = [event["step"] for event in logged[-1:]] + checkpoints[-1:]
    is_finished = run.is_trained_to(num_steps)
    return RunState(
        state="finished" if is_finished else "training" if by else "failed" if failure else "stopped",
        step=num_steps if is_finished else max(steps, default=0),
        num_steps=num_steps,
        checkpoint=checkpoints[-1] if checkpoints else None,
        loss=logged[-1]["loss"] if logged else None,
        holder=by,
        reason=failure.get("reason"),
    )
