"""The queue: jobs are added, stopped, done again, listed. Whoever adds one sees to it that a worker runs."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence

from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_json, write_folder, write_json, write_text
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.job import Job, job_state, read_job
from delora_sd.studio.jobs.worker import DETACH, is_worker_there

Commands = Sequence[Sequence[str]]

_ADDING = threading.Lock()
"""Two tabs of one studio; two studios cannot share a folder."""


def add_job(folder: StudioFolder, *, title: str, kind: str, commands: Commands, runs: Sequence[str] = ()) -> Job:
    """Writes a job at the end of the queue and starts a worker if there is none; returns the job."""
    with _ADDING:
        number = 1 + max((_number(path.name) for path in folder.jobs.glob("[0-9]*")), default=0)
        place = folder.jobs / f"{number:04d}-{_slug(title) or kind}"
        record = {"title": title, "kind": kind, "commands": [list(words) for words in commands], "runs": list(runs)}
        write_folder(place, lambda temporary: write_json(temporary / "job.json", record))
    start_worker(folder)
    return read_job(place)


def list_jobs(folder: StudioFolder) -> list[Job]:
    """Returns all jobs that can be read, the newest first."""
    jobs = []
    for path in sorted(folder.jobs.glob("[0-9]*"), key=lambda path: -_number(path.name)):
        with contextlib.suppress(UserError):  # a folder somebody damaged hides nothing else
            jobs.append(read_job(path))
    return jobs


def find_job(folder: StudioFolder, name: str) -> Job:
    """Returns the job of that name. Raises UserError when there is none."""
    for job in list_jobs(folder):
        if job.name == name:
            return job
    raise UserError(f"no job '{name[:60]}'; reload the page")


def stop_job(folder: StudioFolder, name: str) -> None:
    """Asks a job to end: a training finishes its step and writes a checkpoint; one that waits never starts."""
    job = find_job(folder, name)
    if job_state(job) not in ("waiting", "running"):
        raise UserError(f"{job.title}: has ended already")
    write_text(job.stop_file, "stop\n")
    if job_state(job) == "running" and not is_worker_there(folder.jobs):  # nobody else would pass it on
        file = job.folder / "started.json"
        process = check_record(read_json(file), {"process": int}, source=str(file), advice="delete it")["process"]
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGTERM)


def do_again(folder: StudioFolder, name: str) -> Job:
    """Adds a job with the same commands: what was stopped goes on, for that is what the same command does."""
    job = find_job(folder, name)
    if job_state(job) in ("waiting", "running"):
        raise UserError(f"{job.title}: has not ended yet")
    return add_job(folder, title=job.title, kind=job.kind, commands=job.commands, runs=job.runs)


def start_worker(folder: StudioFolder) -> None:
    """Starts a process that works the queue off and outlives this one; beside another worker it ends at once."""
    command = [sys.executable, "-m", "delora_sd.studio.jobs.worker", str(folder.jobs), DETACH]
    with (folder.jobs / "worker.log").open("ab") as log:
        subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=folder.path, check=True)


def resume_queue(folder: StudioFolder) -> None:
    """Starts a worker when jobs wait and nobody works on them: after the machine was off."""
    waits = any(job_state(job) == "waiting" for job in list_jobs(folder))
    if waits and not is_worker_there(folder.jobs):
        start_worker(folder)


def _number(name: str) -> int:
    match = re.match(r"\d+", name)
    return int(match[0]) if match else 0


def _slug(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower())[:40].strip("-")
