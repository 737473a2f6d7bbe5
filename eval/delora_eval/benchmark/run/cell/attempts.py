"""What becomes of an error: a failed attempt of its cells, smaller batches, or the end of the grid."""

import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from delora_eval.benchmark.folder import MAX_ATTEMPTS, Outcome, evaluation_fingerprint, record_failure, write_outcome
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.cell.bench import Bench
from delora_sd.errors import UserError, is_disk_error
from delora_sd.signals import check_stop

Result = TypeVar("Result")


FIRST_BATCH = 8
"""Images per batch after the first out-of-memory, when the settings leave it open."""


def with_smaller_batches(bench: Bench, call: Callable[[int | None], Result], batch_size: int | None) -> Result:
    """Calls with the batch size, halved whenever it does not fit; a batch of one that does not fit is an error."""
    while True:
        try:
            return call(batch_size)
        except Exception as error:
            if not _is_out_of_memory(error) or batch_size == 1:
                raise
        _free_memory()
        batch_size = FIRST_BATCH if batch_size is None else batch_size // 2
        bench.display.say(f"out of GPU memory; going on with batches of {batch_size}")


@dataclass
class Guard:
    """How a guarded stage ended."""

    failed: bool = False
    is_out_of_memory: bool = False


@contextmanager
def guarded(bench: Bench, stage: str, cells: list[Cell]) -> Iterator[Guard]:
    """Turns an error into a failed attempt of the cells; out of memory is for the caller to handle."""
    guard = Guard()
    try:
        yield guard
    except Exception as error:
        check_stop(error)
        if is_disk_error(error):  # no cell's fault: it must not count as an attempt
            raise
        if _is_out_of_memory(error):
            guard.is_out_of_memory = True
        else:
            guard.failed = True
            reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            for cell in cells:
                fail_cell(bench, cell, stage, reason)
    if guard.is_out_of_memory:
        _free_memory()


def fail_cell(bench: Bench, cell: Cell, stage: str, reason: str) -> None:
    """Remembers the attempt; the last one allowed settles the cell."""
    run = bench.folder.run(cell)
    reason = " ".join(reason.split())
    if record_failure(run, stage=stage, reason=reason) < MAX_ATTEMPTS:
        bench.display.say(f"{cell.id}: {stage} failed, will be tried once more: {reason}")
        return
    evaluation = evaluation_fingerprint(bench.config, cell)
    write_outcome(run, Outcome(state="failed", evaluation=evaluation, reason=f"{stage}: {reason}", seconds={}))
    bench.display.say(f"{cell.id}: {stage} failed twice: {reason}")
    bench.display.end(cell.id, "failed")


def _is_out_of_memory(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and (
        type(error).__name__ == "OutOfMemoryError" or "out of memory" in str(error).lower()
    )


def _free_memory() -> None:
    gc.collect()
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        torch.cuda.empty_cache()
