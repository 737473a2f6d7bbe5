"""One progress display: a live bar in a terminal, plain lines elsewhere; on standard error, output stays clean."""

import time
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

PLAIN_EVERY_S = 15.0
"""Seconds between lines when the output is not a terminal."""


class ProgressDisplay:
    """Names what is done, how far it is, a note such as the loss, and the time left."""

    def __init__(self, title: str, *, total: int, unit: str, done: int = 0, is_shown: bool = True):
        self._console = Console(stderr=True, quiet=not is_shown)
        self._is_live = is_shown and self._console.is_terminal
        self._title, self._total, self._unit = title, total, unit
        self._first, self._done = done, done
        title_column, note_column = (
            TextColumn(text, markup=False) for text in ("{task.description}", "{task.fields[note]}")
        )
        columns = (title_column, BarColumn(), MofNCompleteColumn(), TextColumn(unit), note_column)
        self._bar = Progress(*columns, TimeRemainingColumn(), console=self._console)
        self._began = self._last_line = time.monotonic()

    def __enter__(self) -> "ProgressDisplay":
        if self._is_live:
            self._bar.start()
            self._task = self._bar.add_task(self._title, total=self._total, completed=self._done, note="")
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._is_live:
            self._bar.stop()

    def advance(self, count: int) -> None:
        self.update(self._done + count)

    def update(self, done: int, note: str = "") -> None:
        self._done = done
        if self._is_live:
            self._bar.update(self._task, completed=done, note=note)
        elif time.monotonic() - self._last_line > PLAIN_EVERY_S or done == self._total:
            self._last_line = time.monotonic()
            left_s = (self._last_line - self._began) / max(1, done - self._first) * (self._total - done)
            parts = [f"{self._title}: {done}/{self._total} {self._unit}", note, f"{left_s / 60:.1f} min left"]
            self.say(", ".join(part for part in parts if part))

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)
