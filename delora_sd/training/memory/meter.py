"""Memory of the device that trains: what is free, and what a piece of work holds at its peak."""

import weakref
from collections.abc import Callable
from pathlib import Path

import psutil
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

CGROUPS = Path("/sys/fs/cgroup")
"""Where Linux says what a container or a job of a scheduler may use."""


def free_bytes(device: torch.device) -> int:
    """Returns what this process can still take: of the GPU, or of this machine within its container's limit."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return min([psutil.virtual_memory().available, *container_rooms(Path("/proc/self/cgroup"), CGROUPS)])


def container_rooms(own_groups: Path, mount: Path) -> list[int]:
    """Returns the bytes left under every memory limit above this process; [] where none is set (cgroup v2 and v1)."""
    if not own_groups.exists():
        return []
    rooms = []
    for line in own_groups.read_text().splitlines():
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            folder, limit, usage, cache = mount / group.lstrip("/"), "memory.max", "memory.current", "inactive_file"
        elif "memory" in controllers.split(","):
            folder, limit, usage = (
                mount / "memory" / group.lstrip("/"),
                "memory.limit_in_bytes",
                "memory.usage_in_bytes",
            )
            cache = "total_inactive_file"
        else:
            continue
        for place in (folder, *folder.parents):
            if place.is_relative_to(mount):
                rooms += _room(place / limit, place / usage, place / "memory.stat", cache)
    return rooms


def _room(limit: Path, usage: Path, stat: Path, cache: str) -> list[int]:
    """Limit - use, not counting cached files, which the kernel drops when memory is asked for; [] without a limit."""
    if not (limit.exists() and usage.exists()) or limit.read_text().strip() == "max":
        return []
    lines = stat.read_text().splitlines() if stat.exists() else []
    cached = sum(int(line.split()[1]) for line in lines if line.split()[0] == cache)
    return [max(0, int(limit.read_text()) - int(usage.read_text()) + cached)]


def peak_bytes(device: torch.device, work: Callable[[], None]) -> int:
    """Returns the most memory that tensors made by `work` held at one time."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        work()
        return torch.cuda.max_memory_allocated(device) - before
    with _LiveStorages() as live:
        work()
    return live.peak


class _LiveStorages(TorchDispatchMode):
    """Adds up the storages that operations return, forward and backward, for as long as each lives."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = self._now = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, function, types, arguments=(), keywords=None):
        result = function(*arguments, **(keywords or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                self._count(leaf.untyped_storage())
        return result

    def _count(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self._now += storage.nbytes()
            self.peak = max(self.peak, self._now)
            weakref.finalize(storage, self._forget, key, storage.nbytes())

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._now -= size
