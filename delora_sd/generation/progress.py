"""One display of how many pictures are done: a live bar in a terminal, plain lines elsewhere."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0
"""Seconds between lines when the output is not a terminal."""


class ImageProgress:
    """Names what is drawn, how many are done, and the time left. On standard error: standard output stays clean."""

    def __init__(self, title: str, *, num_images: int):
        self._console = Console(stderr=True)
        self._title, self._num_images, self._num_done = title, num_images, 0
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> "ImageProgress":
        if self._console.is_terminal:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._num_images)
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def advance(self, num_images: int) -> None:
        self._num_done += num_images
        now = time.monotonic()
        if self._console.is_terminal:
            self._bar.update(self._task, completed=self._num_done)
        elif now - self._last_line > PLAIN_EVERY_S or self._num_done == self._num_images:
            self._last_line = now
            left_s = (now - self._began) / self._num_done * (self._num_images - self._num_done)
            self.say(f"{self._title}: {self._num_done}/{self._num_images} pictures, {left_s / 60:.1f} min left")

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
