"""How far a run is, from its folder: state, curves, previews, checkpoints. Reading only."""

import contextlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import TrainConfig
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.job import Job, job_state, last_words
from delora_sd.studio.jobs.queue import list_jobs

CURVES = ("loss", "boundary", "distance")
_PREVIEW = re.compile(r"step-(\d+)-(\d+)-.*\.png")


@dataclass(frozen=True, kw_only=True)
class RunView:
    """One run as the page shows it."""

    name: str
    state: str
    """planned, waiting, running, stopped, failed, finished, unreadable."""
    config: TrainConfig | None = None
    step: int = 0
    curves: Mapping[str, list[tuple[int, float]]]
    """{curve: (step, value)}; only those that the method has."""
    previews: Mapping[int, list[Path]]
    """{step: images in the order of their prompts}."""
    checkpoints: tuple[int, ...] = ()
    photos_per_second: float | None = None
    problem: str = ""
    """Why it failed, or cannot be read."""
    job: Job | None = None
    """The last job that works or worked on it."""

    @property
    def num_steps(self) -> int:
        return self.config.training.num_steps if self.config else 0

    @property
    def seconds_left(self) -> float | None:
        """At the speed of the last line; None while nobody knows. Beside others in a pack the speed is the pack's."""
        if not (self.config and self.photos_per_second and self.state == "running"):
            return None
        training, members = self.config.training, len(self.job.runs) if self.job else 1
        per_step = training.batch_size * (2 if training.prior_weight else 1) * members
        return (self.num_steps - self.step) * per_step / self.photos_per_second


def read_runs(folder: StudioFolder) -> list[RunView]:
    """Returns every run, the newest first; one that cannot be read says why and hides nothing else."""
    jobs = list_jobs(folder)
    return [read_run(folder, name, jobs) for name in folder.run_names()]


def read_run(folder: StudioFolder, name: str, jobs: list[Job] | None = None) -> RunView:
    """Returns one run. Raises UserError when there is none of that name."""
    jobs = list_jobs(folder) if jobs is None else jobs
    job = next((job for job in jobs if job.kind == "train" and name in job.runs), None)
    try:
        run = folder.run(name)
        return _read(run, name, job)
    except UserError as error:
        if name not in folder.run_names():
            raise
        return RunView(name=name, state="unreadable", curves={}, previews={}, problem=str(error), job=job)


def _read(run: RunFolder, name: str, job: Job | None) -> RunView:
    config = read_run_settings(run.config)
    events = [event for event in run.read_events() if "loss" in event or "distance" in event]
    steps = run.checkpoint_steps()
    state, problem = _state(run, config, job)
    return RunView(
        name=name,
        state=state,
        config=config,
        step=max([event["step"] for event in events] + steps, default=0),
        curves={key: curve for key in CURVES if (curve := _curve(events, key))},
        previews=find_previews(run),
        checkpoints=tuple(steps),
        photos_per_second=events[-1].get("images_per_second") if events else None,
        problem=problem,
        job=job,
    )


def _state(run: RunFolder, config: TrainConfig, job: Job | None) -> tuple[str, str]:
    """Returns (state, why): what a job is doing to it now counts before what the folder says."""
    doing = job_state(job) if job else None
    if doing in ("running", "waiting"):
        return doing, ""
    if run.is_trained_to(config.training.num_steps):
        return "finished", ""
    if failure := run.read_failure():
        return "failed", failure["reason"]
    if doing == "failed":
        return "failed", last_words(job)
    return ("planned", "") if doing is None and not run.manifest.exists() else ("stopped", "")


def _curve(events: list[dict[str, Any]], key: str) -> list[tuple[int, float]]:
    return [(event["step"], event[key]) for event in events if isinstance(event.get(key), int | float)]


def find_previews(run: RunFolder) -> dict[int, list[Path]]:
    """Returns {step: preview images}, ascending."""
    found: dict[int, list[Path]] = {}
    with contextlib.suppress(FileNotFoundError):
        for file in sorted(run.previews.iterdir()):
            if match := _PREVIEW.fullmatch(file.name):
                found.setdefault(int(match[1]), []).append(file)
    return dict(sorted(found.items()))
