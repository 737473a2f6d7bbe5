"""Where packs run: this process, the ranks of `accelerate launch`, shards of a job array, or a Ray cluster.

They share everything but who takes which pack; files and claims keep them apart, so any of them may be mixed.
"""

import os
from collections.abc import Callable

from delora_eval.benchmark.folder import BenchmarkFolder, cell_states, read_plan
from delora_eval.benchmark.run.cell.bench import OPEN, Stages
from delora_eval.benchmark.run.cell.stages import real_stages
from delora_eval.benchmark.run.workers.claims import Claims
from delora_eval.benchmark.run.workers.runner import parse_shard, run_phases, share_cells
from delora_eval.benchmark.settings import BenchmarkConfig, with_absolute_places
from delora_sd.errors import UserError

MakeStages = Callable[[BenchmarkConfig], Stages]

RANK_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "GROUP_RANK")


def run_benchmark(config: BenchmarkConfig, make_stages: MakeStages = real_stages) -> BenchmarkFolder:
    """Runs what is left of a benchmark and writes its report when every cell has ended; the same call again resumes."""
    config = with_absolute_places(config)
    folder = LAUNCHERS[config.launcher](config, make_stages)
    cells = [cell for phase in read_plan(folder).values() for cell in phase]
    states = cell_states(folder, config, cells)
    left = [cell for cell in cells if states[cell.id] in OPEN]
    if left:
        holders = sorted({holder for cell in left if (holder := Claims(folder=folder.claims).holder(cell.id))})
        others = ", ".join(holders) or "other processes"
        print(f"{len(left)} of {len(cells)} cells are with {others}; whoever ends last writes the report")
        return folder
    from delora_eval.benchmark.report.report import report_benchmark

    report_benchmark(folder)
    return folder


def run_here(config: BenchmarkConfig, make_stages: MakeStages) -> BenchmarkFolder:
    """This process, or one shard `i/n` of a job array."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"started as one of {os.environ['WORLD_SIZE']} processes by accelerate or torchrun, but launcher=local; "
            "add launcher=accelerate"
        )
    return run_phases(config, make_stages(config), share_cells(*parse_shard(config.shard)))


def run_ranks(config: BenchmarkConfig, make_stages: MakeStages) -> BenchmarkFolder:
    """Every rank works alone on its share, on its own GPU; ranks never talk, so the loss of one stops no other."""
    rank, count = _leave_process_group()
    return run_phases(config, make_stages(config), share_cells(rank, count))


def run_on_ray(config: BenchmarkConfig, make_stages: MakeStages) -> BenchmarkFolder:
    """A driver here hands packs to the workers of an existing Ray cluster."""
    from delora_eval.benchmark.run.workers.ray_cluster import hand_out_packs

    return run_phases(config, make_stages(config), hand_out_packs(config, make_stages))


LAUNCHERS: dict[str, Callable[[BenchmarkConfig, MakeStages], BenchmarkFolder]] = {
    "local": run_here,
    "accelerate": run_ranks,
    "ray": run_on_ray,
}


def _leave_process_group() -> tuple[int, int]:
    """Returns (rank, number of ranks) and hides them: each training must see itself as the only process."""
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    visible = [device for device in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if device]
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if count > 1:
        os.environ["CUDA_VISIBLE_DEVICES"] = visible[local_rank % len(visible)] if visible else str(local_rank)
    for name in RANK_VARIABLES:
        os.environ.pop(name, None)
    return rank, count
