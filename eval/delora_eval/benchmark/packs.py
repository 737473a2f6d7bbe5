"""Cells that can share a pack do: grouped by what must be equal, by how far they are, and by size."""

from collections.abc import Iterable

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.grid import Cell
from delora_sd.errors import UserError

AUTO_ON_GPU = 30
"""All subjects of the dataset at once; halved when it does not fit."""
AUTO_ON_CPU = 8
"""Beyond it a CPU gains nothing: the products are already large."""

Pack = tuple[Cell, ...]


def pack_size(setting: str) -> int:
    """Returns the largest number of cells trained in one batch.

    Raises:
        UserError: neither `auto` nor a positive number.
    """
    if setting == "auto":
        import torch

        return AUTO_ON_GPU if torch.cuda.is_available() else AUTO_ON_CPU
    if not setting.isdigit() or int(setting) < 1:
        raise UserError(f"pack: '{setting}'; expected auto or a whole number of at least 1")
    return int(setting)


def make_packs(folder: BenchmarkFolder, cells: Iterable[Cell], size: int) -> list[Pack]:
    """Returns the cells in packs of at most `size`, in order.

    Methods that cannot be packed (full fine-tuning, PEFT's) and pictures made elsewhere stand alone.
    A pack goes on from the newest step that all its runs have, so only cells that are equally far share one.
    """
    from delora_sd.adapters.delegated import is_packable

    groups: dict[tuple[str, int], list[Cell]] = {}
    leaders: dict[str, Cell] = {}
    for cell in cells:
        leader = leaders.setdefault(cell.row, _leader(cell, leaders.values()))
        steps = folder.run(cell).checkpoint_steps() if cell.train else []
        groups.setdefault((leader.id, max(steps, default=0)), []).append(cell)
    return [
        tuple(group[start : start + width])
        for group in groups.values()
        for width in [size if group[0].train and is_packable(group[0].train.adapter.method) else 1]
        for start in range(0, len(group), width)
    ]


def _leader(cell: Cell, leaders: Iterable[Cell]) -> Cell:
    """The first cell it can share a pack with, else itself; subjects and seeds of one row always can."""
    from delora_sd.training.packing import differing_field

    if cell.train is None:
        return cell
    fitting = (other for other in leaders if other.train and differing_field(other.train, cell.train) is None)
    return next(fitting, cell)
