"""One progress display: a live bar in a terminal, plain lines elsewhere, nothing on other processes."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0
"""Seconds between lines when the output is not a terminal."""


class TrainingProgress:
    """Names step, loss, images/s and the time left."""

    def __init__(self, title: str, *, start_step: int, num_steps: int, is_shown: bool):
        self._console = Console(stderr=True, quiet=not is_shown)
        self._is_live = is_shown and self._console.is_terminal
        self._title, self._start_step, self._num_steps = title, start_step, num_steps
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.1f} images/s"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> "TrainingProgress":
        if self._is_live:
            self._bar.start()
            self._task = self._bar.add_task(
                self._title, total=self._num_steps, completed=self._start_step, loss=float("nan"), speed=0.0
            )
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_live:
            self._bar.stop()

    def update(self, step: int, *, loss: float, images_per_second: float) -> None:
        if self._is_live:
            self._bar.update(self._task, completed=step, loss=loss, speed=images_per_second)
        elif time.monotonic() - self._last_line > PLAIN_EVERY_S or step == self._num_steps:
            self._last_line = time.monotonic()
            left = (self._last_line - self._began) / max(1, step - self._start_step) * (self._num_steps - step)
            self.say(
                f"{self._title}: step {step}/{self._num_steps}, loss {loss:.4f}, "
                f"{images_per_second:.1f} images/s, {left / 60:.1f} min left"
            )

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
