"""What training tells and keeps: progress for people, events.jsonl, trackers, checkpoints, previews.

Only the main process writes.
"""

import signal
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from types import FrameType

import torch

from delora_sd.adapters.attach import Attached
from delora_sd.files.run_folder import RunFolder, append_line, write_json
from delora_sd.progress import ProgressDisplay
from delora_sd.signals import Stopped, handling
from delora_sd.training.checkpoints import prune_checkpoints, save_checkpoint
from delora_sd.training.session import Session, StepReport

Distances = dict[str, tuple[float, float]]
"""{layer: (||dW||_F, ||dW||_F / ||W||_F)} of one adapter."""


@dataclass(kw_only=True)
class Reporter:
    session: Session
    runs: list[RunFolder]
    pack: Attached
    progress: ProgressDisplay
    render_previews: Callable[[int, int], None]
    """(adapter index, step): writes the preview pictures."""
    stop_requested: bool = False
    _signal: int | None = None
    """That asked this process to stop."""
    _step: int = 0
    _failed: set[int] = field(default_factory=set)
    _since: tuple[int, float] | None = None

    def stopping_on_signals(self) -> AbstractContextManager[None]:
        """Inside, SIGTERM and Ctrl-C finish the step, write a checkpoint and end; a second one ends at once."""
        return handling(self._request_stop)

    def _request_stop(self, number: int, _frame: FrameType | None) -> None:
        self._signal = number
        signal.signal(number, signal.SIG_DFL)
        self.progress.say("stopping after this step; once more to stop at once")

    def stop(self) -> Stopped | None:
        """Returns what ends the command when the loop was stopped; a process that was not asked follows the others."""
        if not self.stop_requested:
            return None
        where = str(self.runs[0].path) if len(self.runs) == 1 else f"{len(self.runs)} runs"
        return Stopped(self._signal or signal.SIGTERM, f"{where}, step {self._step}")

    def _agree_on_stop(self) -> bool:
        """All processes stop at the same step, or none would answer the others."""
        if self.session.accelerator.num_processes == 1:
            return self._signal is not None
        asked = torch.tensor(float(self._signal is not None), device=self.session.accelerator.device)
        return self.session.accelerator.reduce(asked, "sum").item() > 0

    def after_step(self, report: StepReport) -> None:
        training, step = self.session.configs[0].training, report.step
        self._step = step
        self._since = self._since or (step - 1, report.began)
        self.stop_requested = self._agree_on_stop()
        is_last = step == training.num_steps or self.stop_requested
        is_logged = step % training.log_every == 0 or is_last
        is_saved = step % training.checkpoint_every == 0 or is_last
        is_main = self.session.accelerator.is_main_process
        distances = self.pack.distances() if is_main and (is_logged or is_saved) else []
        if is_logged:
            self._log(report, distances)
        if not is_main:
            return
        self._record_failures(step)
        if is_saved:
            self._log_layers(step, distances)
            self._checkpoint(step)
        if not self.stop_requested:  # whoever resumes makes them: a stop does not wait for pictures
            self._render_previews(step)

    def catch_up(self, step: int) -> None:
        """Does what a stop or a crash left undone after the checkpoint of the step that training resumes from."""
        if step and self.session.accelerator.is_main_process:
            self._prune(step)
            self._render_previews(step)

    def _render_previews(self, step: int) -> None:
        for index, config in enumerate(self.session.configs):
            if config.preview.every and step % config.preview.every == 0 and index not in self.session.diverged:
                self.render_previews(index, step)

    def _log(self, report: StepReport, distances: list[Distances]) -> None:
        losses = self.session.accelerator.reduce(report.losses, "mean").tolist()
        if not self.session.accelerator.is_main_process:
            return
        speed = self._images_per_second(report.step)
        for index, run in enumerate(self.runs):
            if index in self._failed:
                continue
            boundaries = self.pack.adapters[index].boundaries().values()
            event = {
                "step": report.step,
                "loss": losses[0][index] + losses[1][index],
                "instance_loss": losses[0][index],
                "class_loss": losses[1][index],
                "lr": self._rate(index),
                "grad_norm": report.grad_norms[index],
                "distance": _mean(relative for _, relative in distances[index].values()),
                "images_per_second": speed,
            } | ({"boundary": _mean(boundaries)} if boundaries else {})
            append_line(run.events, {key: value for key, value in event.items() if value == value})
            names = {f"{run.path.name}/{key}" if len(self.runs) > 1 else key: value for key, value in event.items()}
            self.session.accelerator.log(names, step=report.step)
        live = [index for index in range(len(self.runs)) if index not in self.session.diverged]
        loss = _mean(losses[0][index] + losses[1][index] for index in live)
        self.progress.update(report.step, f"loss {loss:.4f}, {speed:.1f} images/s")

    def _log_layers(self, step: int, distances: list[Distances]) -> None:
        """Before the checkpoint: resuming forgets only what was logged after it."""
        for index, layers in enumerate(distances):
            boundaries = self.pack.adapters[index].boundaries()
            described = {
                name: {"distance": distance, "relative_distance": relative}
                | ({"boundary": boundaries[name]} if boundaries else {})
                for name, (distance, relative) in layers.items()
            }
            if index not in self.session.diverged:
                append_line(self.runs[index].events, {"step": step, "layers": described})

    def _checkpoint(self, step: int) -> None:
        for index, (run, config) in enumerate(zip(self.runs, self.session.configs, strict=True)):
            if index in self.session.diverged:
                continue
            save_checkpoint(
                run,
                step,
                self.pack.adapters[index],
                self.session.optimizer,
                loss_scale=self.session.scales[index],
                base=config.model.base,
            )
        self._prune(step)  # only now: until every run has this step, the pack resumes from an older one

    def _prune(self, step: int) -> None:
        for run, config in zip(self.runs, self.session.configs, strict=True):
            prune_checkpoints(run, config.training.keep_checkpoints, step=step)

    def _record_failures(self, step: int) -> None:
        for index in self.session.diverged.keys() - self._failed:
            self._failed.add(index)
            write_json(self.runs[index].failure, {"step": step, "reason": self.session.diverged[index]})
            self.progress.say(f"{self.runs[index].path}: {self.session.diverged[index]}; its last checkpoint is kept")

    def _rate(self, index: int) -> float:
        groups = [group for group in self.session.optimizer.param_groups if group["adapter"] == index]
        return next(group["lr"] for group in groups if not group["is_boundary"])

    def _images_per_second(self, step: int) -> float:
        """Photos and class images per second over all adapters since the last log line."""
        last_step, last_time = self._since
        self._since = (step, time.monotonic())
        training = self.session.configs[0].training
        per_step = training.batch_size * (2 if training.prior_weight else 1) * len(self.session.configs)
        return (step - last_step) * per_step / max(1e-9, self._since[1] - last_time)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
