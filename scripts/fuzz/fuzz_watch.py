"""Runs one case and notices what no reader may do: other exceptions, hanging, memory, writes outside, requests."""

import os
import resource
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError
from fuzz_targets import Case, Target

LIMIT_S = 5
LIMIT_BYTES = 1 << 30

_WRITES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.symlink", "os.link", "os.truncate", "os.chmod"}
_NEVER = {"socket.connect", "socket.getaddrinfo", "pickle.find_class", "subprocess.Popen", "os.system", "os.exec"}


class Hangs(BaseException):
    """Not an Exception: no reader may catch it."""


class Watch:
    """Judges cases in one folder. The system's audit events tell of every write, request and pickle."""

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self.message = ""
        """What the last case was refused with."""
        self.error: BaseException | None = None
        self._events: list[str] = []
        self._is_watching = False
        sys.dont_write_bytecode = True
        sys.addaudithook(self._hear)
        signal.signal(signal.SIGALRM, _ring)

    def judge(self, target: Target, case: Case) -> tuple[str, str]:
        """Returns ("accepted" | "refused" | "finding", what is wrong); the folder holds just the case's files."""
        self._lay_out(case)
        before = _peak_bytes()
        self._events, self.message, self.error = [], "", None
        problem, outcome = self._run(target, case)
        problem = problem or next(iter(self._events), "")
        grown = _peak_bytes() - before
        if not problem and grown > LIMIT_BYTES:
            problem = f"memory: {grown >> 20} MiB more"
        return ("finding" if problem else outcome), problem

    def _run(self, target: Target, case: Case) -> tuple[str, str]:
        try:
            signal.setitimer(signal.ITIMER_REAL, LIMIT_S)
            self._is_watching = True
            target.run(self.folder, case.words)
            return "", "accepted"
        except UserError as error:
            self.message = str(error)
            return ("" if self.message.strip() else "an empty message: UserError"), "refused"
        except (Exception, Hangs, SystemExit) as error:
            self.error = error
            return f"{_place(error)}: {str(error)[:200]}", "finding"
        finally:
            self._is_watching = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _lay_out(self, case: Case) -> None:
        for item in self.folder.iterdir():
            shutil.rmtree(item) if item.is_dir() and not item.is_symlink() else item.unlink()
        for name, content in case.files.items():
            (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
            (self.folder / name).write_bytes(content)

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self._is_watching:
            return
        if event in _NEVER:
            self._events.append(f"{event}: {arguments!r}"[:300])
        elif event == "open" and _is_write(arguments) and self._is_outside(arguments[0]):
            self._events.append(f"written outside: {arguments[0]!r}")
        elif event in _WRITES and any(self._is_outside(path) for path in arguments[:2]):
            self._events.append(f"{event} outside: {arguments[:2]!r}")

    def _is_outside(self, path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        text = os.path.realpath(os.fsdecode(path))
        return text != os.devnull and not text.startswith(f"{self.folder}{os.sep}")


def _ring(*_: Any) -> None:
    raise Hangs(f"more than {LIMIT_S} s")


def _is_write(arguments: tuple[Any, ...]) -> bool:
    flags = arguments[2] if len(arguments) > 2 and isinstance(arguments[2], int) else 0
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC))


def _place(error: BaseException) -> str:
    """Returns the exception's name and the last line of the project it came through."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "delora_" in frame.filename]
    where = f" in {Path(frames[-1].filename).name} {frames[-1].name} line {frames[-1].lineno}" if frames else ""
    return f"{type(error).__name__}{where}"


def _peak_bytes() -> int:
    """The most memory this process ever held: it never falls, so only growth means something."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
