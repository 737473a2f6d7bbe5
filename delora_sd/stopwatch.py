"""Where the time of a piece of work goes, by named parts; nothing is measured unless somebody asks.

A part is counted without the parts inside it, so that all of them add up to the whole. Work that other threads do is
not counted: it is off the path that a person waits for. On a GPU a part ends when its work is handed over, and the part
that waits for a result counts the rest.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field

REST = "everything else"


@dataclass
class Stopwatch:
    """Seconds by part; `REST` is what no part claimed."""

    seconds: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)
    _since: float = 0.0

    def switch(self, *, into: str | None = None) -> None:
        """Gives the time since the last switch to the innermost open part; then opens a part, or closes that one."""
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] = self.seconds.get(self._open[-1], 0.0) + now - self._since
        self._since = now
        if into is None:
            self._open.pop()
        else:
            self._open.append(into)


_WATCH: ContextVar[Stopwatch | None] = ContextVar("watch", default=None)


@contextmanager
def timing() -> Iterator[Stopwatch]:
    """Inside, the parts that this thread names are counted."""
    watch = Stopwatch()
    token = _WATCH.set(watch)
    watch.switch(into=REST)
    try:
        yield watch
    finally:
        watch.switch()
        _WATCH.reset(token)


@contextmanager
def time_of(name: str) -> Iterator[None]:
    """Counts what is inside under the name, if anybody is timing."""
    watch = _WATCH.get()
    if watch is None:
        yield
        return
    watch.switch(into=name)
    try:
        yield
    finally:
        watch.switch()
