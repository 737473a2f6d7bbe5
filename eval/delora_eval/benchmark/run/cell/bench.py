"""One worker's view of a benchmark: settings, folder, the stages of a cell, and the display a person watches."""

import contextlib
import io
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.cell.packs import Measure
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_eval.settings import ChooseConfig, ScoreConfig
from delora_sd.settings import GenerateConfig, TrainConfig

STATES = ("finished", "diverged", "failed", "half-done", "waiting")
OPEN = ("half-done", "waiting")
STYLES = {"finished": "green", "diverged": "yellow", "failed": "red", "half-done": "cyan", "waiting": "dim"}


@dataclass(kw_only=True)
class Display:
    """Cells by method and state: a live table in a terminal, else plain lines; what stages print is its last line."""

    console: Console = field(default_factory=lambda: Console(file=sys.stderr, markup=False, emoji=False))
    title: str = ""
    _states: dict[str, str] = field(default_factory=dict)
    _methods: dict[str, str] = field(default_factory=dict)
    _left: int = 0
    _now: str = ""
    _last_line: str = ""
    _live: Live | None = None
    _began: float = field(default_factory=time.monotonic)
    _ended: int = 0

    def plan(self, cells: list[Cell], states: list[str]) -> None:
        """Sets the cells of this phase and how far they are."""
        self._states = dict(zip([cell.id for cell in cells], states, strict=True))
        self._methods = {cell.id: cell.method for cell in cells}
        self._left = sum(state in OPEN for state in states)
        self._began, self._ended = time.monotonic(), 0

    def begin(self, stage: str, ids: list[str]) -> None:
        shown = ids[0] if len(ids) == 1 else f"{len(ids)} cells in one batch ({ids[0]}, ...)"
        self._now = f"{stage} {shown}"
        self._show(self._now)

    def end(self, cell_id: str, state: str) -> None:
        self._left -= self._states.get(cell_id) in OPEN and state not in OPEN
        self._states[cell_id] = state
        self._ended += 1
        left = self._left
        self._show(
            f"{cell_id}: {state}; {len(self._states) - left} of {len(self._states)} cells{self._time_left(left)}"
        )

    def say(self, text: str) -> None:
        """A line that stays."""
        (self._live.console if self._live else self.console).print(text, markup=False, highlight=False, soft_wrap=True)

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """In a terminal the table is live inside and owns the screen; the stages' own output becomes its last line."""
        if not self.console.is_terminal:
            yield
            return
        self._live = Live(get_renderable=self.render, console=self.console, refresh_per_second=4, transient=False)
        with self._live, contextlib.redirect_stderr(_LastLine(self)):
            yield
        self._live = None

    def render(self) -> Group:
        """Returns the table of methods by state, and what happens now."""
        table = Table(title=self.title or None, title_justify="left", expand=False)
        table.add_column("method")
        for state in STATES:
            table.add_column(state, justify="right", style=STYLES[state])
        counts = Counter((self._methods[cell_id], state) for cell_id, state in self._states.items())
        for method in dict.fromkeys(self._methods.values()):
            table.add_row(method, *(str(counts[method, state] or "") for state in STATES))
        return Group(table, Text(self._now), Text(self._last_line, style="dim", overflow="ellipsis", no_wrap=True))

    def _show(self, line: str) -> None:
        if self._live is None:
            self.say(line)

    def _time_left(self, left: int) -> str:
        """By the mean of the cells that ended in this call."""
        if not left:
            return ""
        minutes = (time.monotonic() - self._began) / max(1, self._ended) * left / 60
        return f", about {minutes:.0f} min left" if minutes < 120 else f", about {minutes / 60:.1f} h left"


class _LastLine(io.TextIOBase):
    """Where the stages' messages go while the table is on screen."""

    def __init__(self, display: Display):
        self._display = display

    def write(self, text: str) -> int:
        if text.strip():
            self._display._last_line = text.strip().splitlines()[-1]
        return len(text)

    def isatty(self) -> bool:
        return False


@dataclass(frozen=True, kw_only=True)
class Stages:
    """The three functions a cell goes through, and what a pack needs; tests give their own."""

    measure: Measure
    train: Callable[[list[TrainConfig]], Any]
    generate: Callable[[GenerateConfig], Path]
    """Returns the folder of the image set."""
    score: Callable[[ScoreConfig], Any]
    choose: Callable[[ChooseConfig], Any]
    """Returns the `choice.choose.Choice` among the checkpoints of a run."""


@dataclass(kw_only=True)
class Bench:
    """One worker's view of a benchmark."""

    config: BenchmarkConfig
    folder: BenchmarkFolder
    stages: Stages
    display: Display
    pack_size: int = 1
    """Falls when a pack did not fit."""
