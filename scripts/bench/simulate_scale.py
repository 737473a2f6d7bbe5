#!/usr/bin/env python
"""A benchmark of many cells on many workers, without computing any: idle share, makespan, what the file system sees.

    python scripts/bench/simulate_scale.py                                 # 100,000 cells on 64 workers, some seconds
    python scripts/bench/simulate_scale.py --workers 256 --lost 8 --ms 2   # a slower disk, and 8 workers die half-way

The order in which a worker takes packs is the runner's own (`in_turn`); time is a number that is added up. A worker
does what `share_cells` does: it looks whether a pack has ended, claims its cells, works, gives them back; when its own
share is done it goes through the others', then through what is left, and ends when it found nothing to do. Every look
and claim takes as long as the disk needs for its operations, which are counted by second.
"""

import argparse
import heapq
import itertools
import math
import random
from collections import Counter
from dataclasses import dataclass, field

from delora_eval.benchmark.run.workers.claims import HEARTBEAT_SECONDS
from delora_eval.benchmark.run.workers.runner import in_turn

LOOK = 2
"""Operations to see whether a cell has ended: its outcome's entry and bytes."""

CLAIM = 9
"""To claim a cell and give it back: the arbiter's lock, the claim read, written, linked; read and removed."""

FILES = 34
"""What a finished cell leaves, without its images: settings, manifest, events, scores, checkpoint, adapter, exports."""


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is simulated."""

    cells: int = 100_000
    workers: int = 64
    pack: int = 30
    cell_seconds: float = 90.0
    """Of one worker, its share of the pack's training, its images and scores."""
    spread: float = 0.3
    """Standard deviation of a pack's time, as a share of it: prompts, machines, neighbours."""
    operation_ms: float = 0.5
    """Of the shared file system: 0.05 on a local disk, 0.5 to 2 over NFS."""
    lost: int = 0
    """Workers that die in the middle of a pack; their claims run out after the lease."""
    lease_seconds: float = 300.0
    seed: int = 0


@dataclass
class Outcome:
    """What came of it."""

    makespan: float = 0.0
    busy: float = 0.0
    """Seconds of work, all workers together."""
    idle_share: float = 0.0
    """Of the time between the start and the last worker's end."""
    operations: Counter = field(default_factory=Counter)
    """{second: operations}"""
    done: Counter = field(default_factory=Counter)
    """{pack: how often it was worked to its end}"""


@dataclass
class Worker:
    """One of them: the packs of its present round, and how far it is in it."""

    turns: list[int]
    place: int = 0
    has_worked: bool = False
    """In this round; without it the next finds nothing either."""
    dies_at: float = math.inf
    end: float = 0.0


def simulate(grid: Grid) -> Outcome:
    """Returns how the grid went; every pack is worked on until one worker has ended it."""
    dice, outcome = random.Random(grid.seed), Outcome()
    packs = list(range(-(-grid.cells // grid.pack)))
    seconds = [grid.pack * grid.cell_seconds * max(0.2, dice.gauss(1.0, grid.spread)) for _ in packs]
    workers = [Worker(turns=in_turn(packs, index, grid.workers)) for index in range(grid.workers)]
    for index in dice.sample(range(grid.workers), grid.lost):
        workers[index].dies_at = 0.5 * grid.cells * grid.cell_seconds / grid.workers
    claimed: dict[int, float] = {}
    queue = [(0.0, index) for index in range(grid.workers)]
    while queue:
        now, index = heapq.heappop(queue)
        worker = workers[index]
        if worker.place < len(worker.turns):
            after = _take_turn(grid, outcome, worker, now, claimed, seconds)
        else:
            after = _begin_round(grid, outcome, worker, now)
        if after is None:
            worker.end = now
        else:
            heapq.heappush(queue, (after, index))
    outcome.makespan = max(worker.end for worker in workers)
    lifetimes = [worker.end if worker.dies_at < math.inf else outcome.makespan for worker in workers]
    outcome.idle_share = max(0.0, 1 - outcome.busy / sum(lifetimes))
    return outcome


def _take_turn(
    grid: Grid, outcome: Outcome, worker: Worker, now: float, claimed: dict[int, float], seconds: list[float]
) -> float | None:
    """Looks at the next pack and works on it when it is free; returns when the worker goes on, None: it died."""
    pack = worker.turns[worker.place]
    worker.place += 1
    now = _pass_time(outcome, now, grid.pack * LOOK, grid)
    if outcome.done[pack] or claimed.get(pack, -1.0) >= now:
        return now
    now = _pass_time(outcome, now, grid.pack * CLAIM, grid)
    if now >= worker.dies_at:
        claimed[pack] = now + grid.lease_seconds
        return None
    claimed[pack], worker.has_worked = math.inf, True
    _beat(outcome, now, now + seconds[pack], grid)
    outcome.busy += seconds[pack]
    outcome.done[pack] += 1  # nobody looks at it again before its claim is given back
    return now + seconds[pack]


def _begin_round(grid: Grid, outcome: Outcome, worker: Worker, now: float) -> float | None:
    """Looks at all cells for what is left, perhaps of somebody who died; None: the last round found nothing to do."""
    if not worker.has_worked:
        return None
    worker.turns = [pack for pack in worker.turns if not outcome.done[pack]]
    worker.place, worker.has_worked = 0, False
    return _pass_time(outcome, now, grid.cells * LOOK, grid)


def _pass_time(outcome: Outcome, now: float, operations: int, grid: Grid) -> float:
    """Counts the operations, second by second, and returns when they are through: one waits for the other."""
    a_second, left = max(1, round(1000 / grid.operation_ms)), operations
    for second in itertools.count(int(now)):
        outcome.operations[second] += min(left, a_second)
        left -= a_second
        if left <= 0:
            return now + operations * grid.operation_ms / 1000


def _beat(outcome: Outcome, began: float, end: float, grid: Grid) -> None:
    """The holder touches its claims until the pack has ended."""
    for beat in range(1, int((end - began) / HEARTBEAT_SECONDS) + 1):
        outcome.operations[int(began + beat * HEARTBEAT_SECONDS)] += grid.pack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=Grid.cells)
    parser.add_argument("--workers", type=int, default=Grid.workers)
    parser.add_argument("--pack", type=int, default=Grid.pack)
    parser.add_argument("--seconds", type=float, default=Grid.cell_seconds, help="of one cell on one worker")
    parser.add_argument("--ms", type=float, default=Grid.operation_ms, help="of one operation of the file system")
    parser.add_argument("--lost", type=int, default=0, help="workers that die half-way")
    arguments = parser.parse_args()
    grid = Grid(
        cells=arguments.cells,
        workers=arguments.workers,
        pack=arguments.pack,
        cell_seconds=arguments.seconds,
        operation_ms=arguments.ms,
        lost=arguments.lost,
    )
    print_outcome(grid, simulate(grid))


def print_outcome(grid: Grid, outcome: Outcome) -> None:
    rates = sorted(outcome.operations.values())
    total = sum(rates)
    print(f"{grid.cells:,} cells in packs of {grid.pack} on {grid.workers} workers, {grid.lost} of them lost half-way")
    print(f"makespan        {outcome.makespan / 3600:10.2f} h, at best {outcome.busy / grid.workers / 3600:.2f} h")
    print(f"idle share      {outcome.idle_share:10.2%}")
    print(f"operations      {total:10,}, {total / grid.cells:.0f} a cell")
    print(f"a second        {total / outcome.makespan:10,.0f} on average, {rates[-1]:,} in the busiest")
    print(f"files           {grid.cells * FILES:10,} and their images")


if __name__ == "__main__":
    main()
