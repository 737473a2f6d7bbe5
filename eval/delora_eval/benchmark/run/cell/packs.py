"""Cells that can share a pack do: grouped by what must be equal, by how far they are, and by size."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.grid import Cell
from delora_sd.config.deciding import pack_group
from delora_sd.errors import UserError
from delora_sd.settings import TrainConfig

if TYPE_CHECKING:
    from delora_sd.training.memory.pack_size import PackMemory

AUTO = "auto"

Pack = tuple[Cell, ...]

Measure = Callable[[list[TrainConfig]], "PackMemory"]
"""What the most demanding of several runs needs, on this device."""


def check_pack_setting(setting: str) -> None:
    """Raises UserError when it is neither `auto` nor a positive number."""
    if setting != AUTO and (not setting.isdigit() or int(setting) < 1):
        raise UserError(f"pack: '{setting}'; expected auto or a whole number of at least 1")


def find_pack_size(setting: str, cells: Iterable[Cell], *, measure: Measure, say: Callable[[str], None]) -> int:
    """Returns how many of the cells train in one batch: what was asked for, or less where that would not fit."""
    from delora_sd.adapters.attach import is_packable
    from delora_sd.training.memory.pack_size import best_pack, fit_pack

    packable = [cell for cell in cells if cell.train and is_packable(cell.train.adapter.method)]
    wanted = min(best_pack() if setting == AUTO else int(setting), len(packable))
    if wanted < 2:
        return 1
    return fit_pack(wanted, measure(_one_of_each(packable)), say)


def _one_of_each(cells: list[Cell]) -> list[TrainConfig]:
    """Of cells that can share a pack, the training of the first: they need the same."""
    groups: dict[str, TrainConfig] = {}
    for cell in _first_of_each_row(cells).values():
        groups.setdefault(pack_group(cell.train), cell.train)
    return list(groups.values())


def _first_of_each_row(cells: Iterable[Cell]) -> dict[str, Cell]:
    """Returns {row: its first cell}; subjects and seeds of one row can always share a pack."""
    first: dict[str, Cell] = {}
    for cell in cells:
        first.setdefault(cell.row, cell)
    return first


def make_packs(folder: BenchmarkFolder, cells: Iterable[Cell], size: int) -> list[Pack]:
    """Returns the cells in packs of at most `size`, in order.

    Methods that cannot be packed (full fine-tuning, PEFT's) and images made elsewhere stand alone.
    A pack goes on from the newest step that all its runs have, so only cells that are equally far share one.
    """
    from delora_sd.adapters.attach import is_packable

    cells, begun = list(cells), folder.begun()
    group_of = {
        row: pack_group(first.train) if first.train else row for row, first in _first_of_each_row(cells).items()
    }
    groups: dict[tuple[str, int], list[Cell]] = {}
    for cell in cells:
        steps = folder.run(cell).checkpoint_steps() if cell.train and cell.id in begun else []
        groups.setdefault((group_of[cell.row], max(steps, default=0)), []).append(cell)
    return [
        tuple(group[start : start + width])
        for group in groups.values()
        for width in [size if group[0].train and is_packable(group[0].train.adapter.method) else 1]
        for start in range(0, len(group), width)
    ]
