"""One command of the product in a process of its own, forked from one that has imported everything.
Start-up, most of a small command's time, is paid once.

Fork before any thread starts: set OMP_NUM_THREADS=1, and run no model in the parent.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, replace
from pathlib import Path

from crash_faults import Disk, Failure

LONGEST_S = 300.0
"""An attempt that takes longer hangs."""

_POLL_S = 0.002


@dataclass(frozen=True, kw_only=True)
class Ending:
    """How an attempt ended."""

    code: int
    """Exit code; minus the signal that killed it."""
    seconds: float
    output: str
    boundaries: tuple[str, ...] = ()
    """What it wrote, in order; only of an attempt that was watched and ended by itself."""


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Fails at the `at`-th write boundary, counted from 1."""

    at: int
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Sends a signal so many seconds after the start."""

    after_s: float
    number: signal.Signals = signal.SIGKILL


def import_everything() -> None:
    """Imports all that the commands import lazily; attempts then share it."""
    import matplotlib.pyplot  # noqa: F401
    from delora_eval import score
    from delora_eval.benchmark import launchers, report
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from delora_sd import cli
    from delora_sd.generation import generate
    from delora_sd.training import recipe

    cli.load_commands()
    assert all((AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel))
    assert all((CLIPTextModel, CLIPTokenizer, score, launchers, report, generate, recipe))


def attempt(arguments: list[str], watched: Path, logs: Path, how: Fault | Signal | None = None) -> Ending:
    """Runs `delora-sd ARGUMENTS` and returns how it ended; `watched` is the folder whose writes are boundaries."""
    process, began = start(arguments, watched, logs, how if isinstance(how, Fault) else None), time.monotonic()
    return follow(process, logs, began=began, stop=how if isinstance(how, Signal) else None)


def start(arguments: list[str], watched: Path, logs: Path, fault: Fault | None = None) -> int:
    """Starts an attempt and returns its process id; its output and boundaries go to `logs`."""
    logs.mkdir(parents=True, exist_ok=True)
    process = os.fork()
    if process == 0:
        _be_the_command(arguments, watched, logs, fault)
    return process


def follow(process: int, logs: Path, *, began: float, stop: Signal | None = None) -> Ending:
    """Waits for the end of an attempt, sending it a signal on the way if asked to."""
    pending = stop
    while True:
        ended, status = os.waitpid(process, os.WNOHANG)
        seconds = time.monotonic() - began
        if ended:
            return _read_ending(logs, os.waitstatus_to_exitcode(status), seconds)
        if pending and seconds >= pending.after_s:
            os.kill(process, pending.number)
            pending = None
        if seconds > LONGEST_S:
            os.kill(process, signal.SIGKILL)
        time.sleep(_POLL_S)


def _be_the_command(arguments: list[str], watched: Path, logs: Path, fault: Fault | None) -> None:
    """The rest of the forked process's life."""
    code = 1
    try:
        log = os.open(logs / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        disk = Disk(watched, fail_at=fault.at, failure=fault.failure) if fault else Disk(watched)
        disk.install()
        from delora_sd.cli import main

        code = main(arguments)
        (logs / "modules.json").write_text(json.dumps(sorted(sys.modules)))
        if fault is None:
            (logs / "boundaries.json").write_text(json.dumps(disk.boundaries))
    except BaseException as error:  # it must never return into the parent's code
        print(f"TRACEBACK: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _read_ending(logs: Path, code: int, seconds: float) -> Ending:
    output, file = (logs / "output.txt").read_text(errors="replace"), logs / "boundaries.json"
    ending = Ending(code=code, seconds=seconds, output=output)
    if not file.exists():
        return ending
    boundaries = tuple(json.loads(file.read_text()))
    file.unlink()
    return replace(ending, boundaries=boundaries)
