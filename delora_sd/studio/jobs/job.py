"""One job: commands of `delora-sd` in a folder, with what they printed and how they ended. State is what lies there.

job.json       title, kind, commands, runs           written once, by whoever asks for it
started.json   process, when                         by the worker
stop           somebody wants it to end              by the page
ended.json     exit code, when                       by the worker
log.txt        what the commands printed
.lock          held as long as the command lives, whoever started it
"""

import fcntl
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_json

State = Literal["waiting", "running", "done", "failed", "stopped", "interrupted"]
STOPPED_CODES = (130, 143, -15, -2)
"""Of a command that was asked to stop; negative: it was ended by the signal itself."""
_SHOWN_BYTES = 20_000


@dataclass(frozen=True, kw_only=True)
class Job:
    """What was asked for, and the folder it is in."""

    folder: Path
    title: str
    kind: str
    """train, choose, generate, export, card, push, captions, masks, estimate."""
    commands: tuple[tuple[str, ...], ...]
    """One after the other, until one fails."""
    runs: tuple[str, ...]
    """Names of the run folders it works on."""

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def log(self) -> Path:
        return self.folder / "log.txt"

    @property
    def stop_file(self) -> Path:
        return self.folder / "stop"

    @property
    def lock(self) -> Path:
        return self.folder / ".lock"


def read_job(folder: Path) -> Job:
    """Returns the job. Raises UserError for a folder that is none."""
    file = folder / "job.json"
    fields = {"title": str, "kind": str}
    record = check_record(read_json(file), fields, source=str(file), advice="delete the folder")
    commands, runs = record.get("commands"), record.get("runs")
    if not (_are_words(runs) and isinstance(commands, list) and all(map(_are_words, commands))):
        raise UserError(f"{file}: expected lists of words as commands and runs; delete the folder")
    return Job(
        folder=folder,
        title=record["title"],
        kind=record["kind"],
        commands=tuple(map(tuple, commands)),
        runs=tuple(runs),
    )


def job_state(job: Job) -> State:
    """Returns how far it is, from its files alone."""
    ended = _record(job.folder / "ended.json")
    if ended:
        code = ended.get("code")
        return "done" if code == 0 else "stopped" if code in STOPPED_CODES else "failed"
    if not (job.folder / "started.json").exists():
        return "stopped" if job.stop_file.exists() else "waiting"
    return "running" if is_held(job.lock) else "interrupted"


def is_held(lock: Path) -> bool:
    """True while a process that was given the lock lives."""
    try:
        with lock.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def log_tail(job: Job) -> str:
    """Returns the end of what it printed."""
    try:
        with job.log.open("rb") as file:
            file.seek(max(0, job.log.stat().st_size - _SHOWN_BYTES))
            return file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""


def last_words(job: Job) -> str:
    """Returns the last line of the log that says something: of a job that failed, why."""
    lines = [line.strip() for line in log_tail(job).splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith("delora-sd: ") and not line.startswith("delora-sd: warning")]
    return (ours or lines or [""])[-1].removeprefix("delora-sd: ")


def show_commands(commands: tuple[tuple[str, ...], ...]) -> str:
    """Returns the commands as one types them."""
    return "\n".join(shlex.join(("delora-sd", *command)) for command in commands)


def started_at(job: Job) -> float | None:
    """Returns when it began, seconds since 1970."""
    when = _record(job.folder / "started.json").get("when")
    return when if isinstance(when, float) else None


def ended_at(job: Job) -> float | None:
    when = _record(job.folder / "ended.json").get("when")
    return when if isinstance(when, float) else None


def _record(file: Path) -> dict[str, Any]:
    try:
        record = read_json(file)
    except UserError:
        return {}
    return record if isinstance(record, dict) else {}


def _are_words(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(word, str) for word in value)
