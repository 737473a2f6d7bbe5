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
from delora_sd.files.run_folder import append_line, write_json
from delora_sd.progress import ProgressDisplay
from delora_sd.signals import Stopped, handling
from delora_sd.stopwatch import time_of
from delora_sd.training.loop.loop import Session, StepReport
from delora_sd.training.loop.member import Member
from delora_sd.training.loop.optimization import learning_rate
from delora_sd.training.record.checkpoints import prune_checkpoints, save_checkpoint

Distances = dict[str, tuple[float, float]]
"""{layer: (||dW||_F, ||dW||_F / ||W||_F)} of one adapter."""


@dataclass(kw_only=True)
class Reporter:
    session: Session
    pack: Attached
    progress: ProgressDisplay
    render_preview: Callable[[Member, int], None]
    """(member, step): writes its preview images."""
    stop_requested: bool = False
    _signal: int | None = None
    """That asked this process to stop."""
    _step: int = 0
    _recorded: set[Member] = field(default_factory=set)
    """Who left, and whose folder says so."""
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
        members = self.session.members
        where = str(members[0].run.path) if len(members) == 1 else f"{len(members)} runs"
        return Stopped(self._signal or signal.SIGTERM, f"{where}, step {self._step}")

    def _agree_on_stop(self) -> bool:
        """All processes stop at the same step, or none would answer the others."""
        if self.session.accelerator.num_processes == 1:
            return self._signal is not None
        asked = torch.tensor(float(self._signal is not None), device=self.session.accelerator.device)
        return self.session.accelerator.reduce(asked, "sum").item() > 0

    @time_of("logging")
    def after_step(self, report: StepReport) -> None:
        training, step = self.session.training, report.step
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
        if not self.stop_requested:  # whoever resumes makes them: a stop does not wait for images
            self._render_previews(step)

    def catch_up(self, step: int) -> None:
        """Does what a stop or a crash left undone after the checkpoint of the step that training resumes from."""
        if step and self.session.accelerator.is_main_process:
            self._prune(step)
            self._render_previews(step)

    @time_of("previews")
    def _render_previews(self, step: int) -> None:
        for member in self.session.live:
            every = member.config.preview.every
            if every and step % every == 0:
                self.render_preview(member, step)

    def _log(self, report: StepReport, distances: list[Distances]) -> None:
        losses = self.session.accelerator.reduce(report.losses, "mean").T.tolist()
        if not self.session.accelerator.is_main_process:
            return
        speed, members = self._images_per_second(report.step), self.session.members
        for member, (instance, prior), layers in zip(members, losses, distances, strict=True):
            if member in self._recorded:
                continue
            boundaries = member.adapter.boundaries().values()
            event = {
                "step": report.step,
                "loss": instance + prior,
                "instance_loss": instance,
                "class_loss": prior,
                "lr": learning_rate(self.session.optimizer, member.adapter),
                "grad_norm": member.grad_norm,
                "distance": _mean(relative for _, relative in layers.values()),
                "images_per_second": speed,
            } | ({"boundary": _mean(boundaries)} if boundaries else {})
            append_line(member.run.events, {key: value for key, value in event.items() if value == value})
            names = {
                f"{member.run.path.name}/{key}" if len(members) > 1 else key: value for key, value in event.items()
            }
            self.session.accelerator.log(names, step=report.step)
        loss = _mean(sum(losses[member.position]) for member in self.session.live)
        self.progress.update(report.step, f"loss {loss:.4f}, {speed:.1f} images/s")

    def _log_layers(self, step: int, distances: list[Distances]) -> None:
        """Before the checkpoint: resuming forgets only what was logged after it."""
        for member in self.session.live:
            boundaries = member.adapter.boundaries()
            described = {
                name: {"distance": distance, "relative_distance": relative}
                | ({"boundary": boundaries[name]} if boundaries else {})
                for name, (distance, relative) in distances[member.position].items()
            }
            append_line(member.run.events, {"step": step, "layers": described})

    @time_of("checkpoints")
    def _checkpoint(self, step: int) -> None:
        for member in self.session.live:
            save_checkpoint(
                member.run,
                step,
                member.adapter,
                self.session.optimizer,
                ema=member.ema,
                loss_scale=member.loss_scale,
                base=member.config.model.base,
            )
        self._prune(step)  # only now: until every run has this step, the pack resumes from an older one

    def _prune(self, step: int) -> None:
        for member in self.session.members:
            prune_checkpoints(member.run, self.session.training.keep_checkpoints, step=step)

    def _record_failures(self, step: int) -> None:
        for member in self.session.members:
            if member.left is not None and member not in self._recorded:
                self._recorded.add(member)
                write_json(member.run.failure, {"step": step, "reason": member.left})
                self.progress.say(f"{member.run.path}: {member.left}; its last checkpoint is kept")

    def _images_per_second(self, step: int) -> float:
        """Photos and class images per second over all adapters since the last log line."""
        last_step, last_time = self._since
        self._since = (step, time.monotonic())
        training = self.session.training
        per_step = training.batch_size * (2 if training.prior_weight else 1) * len(self.session.members)
        return (step - last_step) * per_step / max(1e-9, self._since[1] - last_time)


def _mean(values) -> float:
    values = list(values)
    return sum(values) / len(values) if values else float("nan")
