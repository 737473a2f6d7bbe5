"""One command of the product in a process of its own, forked from one that has imported everything.
Start-up, most of a small command's time, is paid once.

Fork before any thread starts: set OMP_NUM_THREADS=1, and run no model in the parent.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
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
    """What it wrote, in order; only of an attempt that ended by itself."""
    modules: tuple[str, ...] = ()
    """What it had imported by then."""

    @property
    def said(self) -> list[str]:
        """The lines in which the command speaks for itself, warnings apart."""
        lines = self.output.splitlines()
        return [line for line in lines if line.startswith("delora-sd: ") and not line.startswith("delora-sd: warning")]


@dataclass(frozen=True, kw_only=True)
class Fault:
    """Fails at the `at`-th write boundary, counted from 1."""

    at: int
    failure: Failure


@dataclass(frozen=True, kw_only=True)
class Signal:
    """Sends a signal so many seconds after the start."""

    after_s: float
    number: signal.Signals


def import_everything() -> None:
    """Imports all that the commands import lazily; attempts then share it."""
    import matplotlib.pyplot  # noqa: F401
    from diffusers import AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer

    from delora_eval.benchmark.report.report import report_benchmark
    from delora_eval.benchmark.run.workers import launchers
    from delora_eval.scoring import score
    from delora_sd.cli import main as cli
    from delora_sd.generation import generate
    from delora_sd.training import recipe

    cli.load_commands()
    assert all((AutoencoderKL, DPMSolverMultistepScheduler, StableDiffusionPipeline, UNet2DConditionModel))
    assert all((CLIPTextModel, CLIPTokenizer, score, launchers, report_benchmark, generate, recipe))


def attempt(
    arguments: list[str], stage: Path, logs: Path, how: Fault | Signal | None = None, *, user: int | None = None
) -> Ending:
    """Runs `delora-sd ARGUMENTS` and returns how it ended; left alone, with the boundaries below `stage`.

    Args:
        user: Id to run as; none: as who we are.
    """
    process = start(arguments, stage, logs, how if isinstance(how, Fault) else None, user=user)
    return follow(process, logs, stop=how if isinstance(how, Signal) else None)


def start(arguments: list[str], stage: Path, logs: Path, fault: Fault | None = None, *, user: int | None = None) -> int:
    """Starts an attempt and returns its process id; its output and boundaries go to `logs`."""
    logs.mkdir(parents=True, exist_ok=True)
    (logs / "boundaries.json").unlink(missing_ok=True)
    process = os.fork()
    if process == 0:
        _be_the_command(arguments, stage, logs, fault, user)
    return process


def follow(process: int, logs: Path, *, stop: Signal | None = None) -> Ending:
    """Waits for the end of an attempt, sending it a signal on the way if asked to."""
    pending, began = stop, time.monotonic()
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


def _be_the_command(arguments: list[str], stage: Path, logs: Path, fault: Fault | None, user: int | None) -> None:
    """The rest of the forked process's life."""
    code = 1
    try:
        log = os.open(logs / "output.txt", os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
        os.dup2(log, 1)
        os.dup2(log, 2)
        if user is not None:
            os.setgroups([])
            os.setgid(user)
            os.setuid(user)
        disk = Disk(stage, fail_at=fault.at, failure=fault.failure) if fault else Disk(stage)
        disk.install()
        from delora_sd.cli.main import main

        code = main(arguments)
        if fault is None and user is None:
            seen = {"boundaries": disk.boundaries, "modules": sorted(sys.modules)}
            (logs / "boundaries.json").write_text(json.dumps(seen))
    except BaseException as error:  # it must never return into the parent's code
        print(f"Traceback of an attempt: {type(error).__name__}: {error}", file=sys.stderr)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _read_ending(logs: Path, code: int, seconds: float) -> Ending:
    output, file = (logs / "output.txt").read_text(errors="replace"), logs / "boundaries.json"
    seen = json.loads(file.read_text()) if file.exists() else {"boundaries": (), "modules": ()}
    return Ending(
        code=code,
        seconds=seconds,
        output=output,
        boundaries=tuple(seen["boundaries"]),
        modules=tuple(seen["modules"]),
    )
