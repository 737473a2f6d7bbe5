"""What a training will take on this machine: measured once by `delora-sd estimate`, then arithmetic."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from delora_sd.config.deciding import pack_group
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_json
from delora_sd.settings import TrainConfig
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs.job import Job
from delora_sd.studio.jobs.queue import add_job
from delora_sd.studio.trainings.plan import Training

_FIELDS = {
    "device": str, "step_seconds": float, "more_seconds": float, "fixed_bytes": float, "bytes_per_adapter": float,
    "free_bytes": float,
}  # fmt: skip
_NOT_ASKED = ("output_dir", "data.", "training.num_steps", "training.checkpoint_every", "preview.", "seed")
"""Settings of a training that change neither the time nor the memory of a step."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Of one kind of training (base, method, shape) on one machine, as straight lines in the size of the pack."""

    device: str
    step_seconds: float
    """A step of one adapter alone."""
    more_seconds: float
    """What each further adapter in the pack adds to it."""
    fixed_bytes: float
    bytes_per_adapter: float
    free_bytes: float
    """When it was measured."""

    def pack_seconds(self, size: int, num_steps: int) -> float:
        return num_steps * (self.step_seconds + (size - 1) * self.more_seconds)

    def pack_bytes(self, size: int) -> float:
        return self.fixed_bytes + size * self.bytes_per_adapter


def read_cost(folder: StudioFolder, config: TrainConfig) -> Cost | None:
    """Returns what was measured for this kind of training; None: nothing yet."""
    file = cost_file(folder, config)
    if not file.exists():
        return None
    record = check_record(read_json(file), _FIELDS, source=str(file), advice="delete it and measure again")
    return Cost(**{key: record[key] for key in _FIELDS})


def cost_file(folder: StudioFolder, config: TrainConfig) -> Path:
    """Named by all that decides the time and the memory of a step."""
    shape = replace(config.training, num_steps=1, checkpoint_every=1, log_every=1)
    deciding = pack_group(replace(config, training=shape))
    return folder.costs / f"{hashlib.sha256(deciding.encode()).hexdigest()[:12]}.json"


def measure_costs(folder: StudioFolder, trainings: Sequence[Training]) -> list[Job]:
    """Adds a job per kind of training that was not measured yet."""
    unknown: dict[Path, Training] = {}
    for training in trainings:
        if read_cost(folder, training.config) is None:
            unknown.setdefault(cost_file(folder, training.config), training)
    jobs = []
    for file, training in unknown.items():
        words = [word for word in training.words[1:] if not word.startswith(_NOT_ASKED)]
        command = ("estimate", *words, f"output={file.absolute()}")
        title = f"measure {training.config.adapter.method} on {training.config.model.base}"
        jobs.append(add_job(folder, title=title, kind="estimate", commands=[command]))
    if not jobs:
        raise UserError("these are measured already")
    return jobs


@dataclass(frozen=True, kw_only=True)
class Bill:
    """What all that is planned comes to."""

    seconds: float
    alone_seconds: float
    """The same, one after the other."""
    peak_bytes: float
    free_bytes: float
    device: str


def add_up(folder: StudioFolder, packs: Sequence[Sequence[Training]]) -> Bill | None:
    """Returns the bill; None while one of the kinds is not measured."""
    seconds = alone = peak = 0.0
    cost: Cost | None = None
    for pack in packs:
        cost = read_cost(folder, pack[0].config)
        if cost is None:
            return None
        num_steps = pack[0].config.training.num_steps
        seconds += cost.pack_seconds(len(pack), num_steps)
        alone += len(pack) * cost.pack_seconds(1, num_steps)
        peak = max(peak, cost.pack_bytes(len(pack)))
    if cost is None:
        return None
    return Bill(seconds=seconds, alone_seconds=alone, peak_bytes=peak, free_bytes=cost.free_bytes, device=cost.device)
