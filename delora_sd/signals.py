"""SIGTERM and Ctrl-C: both end a command through an exception, so that whatever is half-done is put in order first."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Stopped(KeyboardInterrupt):
    """The command was asked to stop, and did; what was made is kept. `except Exception` lets it pass, as it must."""

    def __init__(self, number: int, where: str = ""):
        super().__init__(f"{where}: stopped" if where else "stopped")
        self.number = number

    @property
    def exit_code(self) -> int:
        """As a shell reports a process that the signal ended: 130 after Ctrl-C, 143 after SIGTERM."""
        return 128 + self.number


@contextmanager
def handling(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    """Inside, the handler is called for SIGTERM and Ctrl-C. Only the main thread may; others go on without."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handler) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)


_asked: list[int] = []
"""The signals this command got: a library may turn the exception into one of its own (safetensors does)."""


@contextmanager
def stopping_at_once() -> Iterator[None]:
    """Inside, SIGTERM and Ctrl-C raise Stopped wherever the main thread is."""
    try:
        with handling(_stop_at_once):
            yield
    except Exception as error:
        check_stop(error)
        raise
    finally:
        _asked.clear()


def check_stop(error: Exception) -> None:
    """Raises Stopped when a signal came: then the error is what a library made of it."""
    if _asked:
        raise Stopped(_asked[-1]) from error


def _stop_at_once(number: int, _frame: FrameType | None) -> None:
    _asked.append(number)
    raise Stopped(number)
