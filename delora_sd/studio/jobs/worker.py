"""`python -m delora_sd.studio.jobs.worker JOBS [--detach]`: runs the waiting jobs one after the other, then ends.

A process of its own: closing the page, or the studio, stops nothing. One worker per folder; the lock says who.
"""

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from delora_sd.errors import UserError
from delora_sd.files.locks import hold
from delora_sd.files.run_folder import write_json
from delora_sd.studio.jobs.job import Job, is_held, job_state, read_job

WORKER_LOCK = ".worker.lock"
PROGRAM = (sys.executable, "-m", "delora_sd.cli")
DETACH = "--detach"
_LOOK_EVERY_S = 0.25
"""Seconds between looks at whether the job is to be stopped."""


def work(jobs: Path) -> None:
    """Runs what waits. Whoever adds a job while the last worker is leaving is seen: the queue is looked at once more
    after the lock is free."""
    while waiting_job(jobs) is not None:
        try:
            with hold(jobs / WORKER_LOCK, guarding=jobs, setting="jobs"):
                while (job := waiting_job(jobs)) is not None:
                    run_job(job)
        except UserError:
            return  # another worker is there, and will see it


def is_worker_there(jobs: Path) -> bool:
    return is_held(jobs / WORKER_LOCK)


def waiting_job(jobs: Path) -> Job | None:
    """Returns the next job in the order they were asked for; None when none waits."""
    for folder in sorted(jobs.glob("[0-9]*")):
        with contextlib.suppress(UserError):
            job = read_job(folder)
            if job_state(job) == "waiting":
                return job
    return None


def run_job(job: Job) -> None:
    """Runs its commands until one fails, and writes how it ended."""
    code = 1
    try:
        with job.log.open("ab") as log, job.lock.open("wb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            for command in job.commands:
                code = _run(job, command, log.fileno(), lock.fileno())
                if code:
                    break
    finally:
        write_json(job.folder / "ended.json", {"code": code, "when": time.time()})


def _run(job: Job, command: Sequence[str], log: int, lock: int) -> int:
    """Returns the exit code; the process holds the job's lock, so that it is known to run even without its worker."""
    process = subprocess.Popen(
        [*PROGRAM, *command],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        pass_fds=[lock],
        start_new_session=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1", "COLUMNS": "120"},
    )
    write_json(job.folder / "started.json", {"process": process.pid, "when": time.time()})
    is_asked = False
    while True:
        if not is_asked and job.stop_file.exists():  # once: a second signal would end it without a checkpoint
            process.send_signal(signal.SIGTERM)
            is_asked = True
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=_LOOK_EVERY_S)


def leave() -> None:
    """Goes on as a child of nobody: whoever started it may end, and has nothing to wait for."""
    if os.fork():
        os._exit(0)
    os.setsid()


if __name__ == "__main__":
    if DETACH in sys.argv:
        leave()
    work(Path(sys.argv[1]))
