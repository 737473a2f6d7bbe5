"""`launcher=ray`: packs as tasks of an existing Ray cluster, which restarts the task of a lost worker elsewhere."""

import os
import secrets
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from delora_eval.benchmark.folder import BenchmarkFolder, cell_state, settled_outcome
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.cell.attempts import fail_cell
from delora_eval.benchmark.run.cell.bench import Bench, Display, Stages
from delora_eval.benchmark.run.cell.packs import AUTO, Pack
from delora_eval.benchmark.run.workers.runner import RunCells, open_cells, share_cells, split_into_packs
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.errors import UserError

POLL_SECONDS = 2.0


def hand_out_packs(config: BenchmarkConfig, make_stages: Callable[[BenchmarkConfig], Stages]) -> RunCells:
    """Returns work on a Ray cluster: one task per pack, until every cell has ended.

    Raises:
        UserError: Ray is not installed, or there is no cluster at the address.
    """
    ray = _connect(config)
    owner = secrets.token_hex(8)
    settings = replace(config, output_dir=str(Path(config.output_dir).expanduser().resolve()))
    task = ray.remote(num_cpus=config.ray.cpus, num_gpus=config.ray.gpus, max_retries=config.ray.retries, max_calls=0)(
        run_pack_on_worker
    )

    def run_cells(bench: Bench, cells: list[Cell], must_all_end: bool) -> None:
        bench.pack_size = _pack_size(config)
        while left := open_cells(bench, cells):
            packs = {
                task.remote(settings, make_stages, pack, bench.pack_size, owner, os.getcwd()): pack
                for pack in split_into_packs(bench, left)
            }
            _follow(ray, bench, cells, packs)

    return run_cells


def run_pack_on_worker(
    config: BenchmarkConfig,
    make_stages: Callable[[BenchmarkConfig], Stages],
    pack: Pack,
    pack_size: int,
    owner: str,
    working_folder: str,
) -> None:
    """What runs on a worker: the local launcher's work on one pack. A retry takes over the claims of the lost one."""
    os.chdir(working_folder)
    bench = Bench(
        config=config,
        folder=BenchmarkFolder(Path(config.output_dir)),
        stages=_stages(make_stages, config),
        display=Display(),
        pack_size=pack_size,
    )
    share_cells(0, 1, owner=owner)(bench, list(pack), must_all_end=True)


_LOADED: dict[str, Stages] = {}
"""The stages of this worker process, kept from pack to pack: their encoders stay loaded."""


def _stages(make_stages: Callable[[BenchmarkConfig], Stages], config: BenchmarkConfig) -> Stages:
    key = repr(config)
    if key not in _LOADED:
        _LOADED[key] = make_stages(config)
    return _LOADED[key]


def _pack_size(config: BenchmarkConfig) -> int:
    """The workers' memory is not known here: a pack that does not fit is halved there."""
    from delora_sd.training.memory.pack_size import LARGEST_PACK, LARGEST_PACK_ON_CPU

    if config.pack != AUTO:
        return int(config.pack)
    return LARGEST_PACK if config.ray.gpus else LARGEST_PACK_ON_CPU


def _connect(config: BenchmarkConfig) -> Any:
    try:
        import ray
    except ImportError:
        raise UserError("launcher=ray needs Ray: pip install 'delora_sd[cluster]'") from None
    if not ray.is_initialized():
        try:
            ray.init(address=config.ray.address, log_to_driver=False)
        except (ConnectionError, RuntimeError, ValueError) as error:
            first = str(error).strip().split("\n")[0]
            raise UserError(f"ray.address={config.ray.address}: no Ray cluster ({first}); `ray start --head`") from None
    return ray


def _follow(ray: Any, bench: Bench, cells: list[Cell], packs: dict[Any, Pack]) -> None:
    """Waits for all tasks; shows cells as they end. A task lost more often than `ray.retries` fails its cells once."""
    running, unseen = list(packs), {cell.id: cell for cell in open_cells(bench, cells)}
    while running:
        ended, running = ray.wait(running, timeout=POLL_SECONDS)
        for reference in ended:
            try:
                ray.get(reference)
            except ray.exceptions.RayError as error:
                for cell in packs[reference]:
                    if settled_outcome(bench.folder, bench.config, cell) is None:
                        fail_cell(bench, cell, "ray", str(error).strip().split("\n")[-1])
                        unseen.pop(cell.id, None)
        begun = bench.folder.begun()  # of 100,000 cells some thousand are being worked on: only those are looked at
        for cell in [cell for name, cell in unseen.items() if name in begun]:
            state = cell_state(bench.folder, bench.config, cell)
            if state in ("finished", "diverged", "failed"):
                del unseen[cell.id]
                bench.display.end(cell.id, state)
