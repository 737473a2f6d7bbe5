"""Cells that can share a pack do: grouped by what must be equal, by how far they are, and by size."""

from collections.abc import Callable, Iterable

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.grid import Cell
from delora_sd.errors import UserError

AUTO = "auto"

Pack = tuple[Cell, ...]


def check_pack_setting(setting: str) -> None:
    """Raises UserError when it is neither `auto` nor a positive number."""
    if setting != AUTO and (not setting.isdigit() or int(setting) < 1):
        raise UserError(f"pack: '{setting}'; expected auto or a whole number of at least 1")


def find_pack_size(setting: str, cells: Iterable[Cell], say: Callable[[str], None]) -> int:
    """Returns how many of the cells train in one batch: what was asked for, or less where it would not fit the GPU."""
    import torch

    from delora_sd.adapters.delegated import is_packable
    from delora_sd.training.pack_size import USABLE_SHARE, largest_pack, measure_pack_memory

    packable = [cell.train for cell in cells if cell.train and is_packable(cell.train.adapter.method)]
    if not packable or setting == "1":
        return 1
    if setting == AUTO:
        return largest_pack(packable[0])
    wanted = int(setting)
    if not torch.cuda.is_available():
        return wanted
    memory, usable = measure_pack_memory(packable[0]), torch.cuda.mem_get_info()[0] * USABLE_SHARE
    fitting = max(1, memory.largest_pack(usable))
    if wanted > fitting:
        say(
            f"pack={wanted} needs about {memory.needed_bytes(wanted) / 1e9:.1f} GB of GPU memory, "
            f"{usable / 1e9:.1f} GB are usable; going on with packs of {fitting}"
        )
    return min(wanted, fitting)


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
