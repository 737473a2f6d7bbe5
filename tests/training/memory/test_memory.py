"""What is counted as used at the peak, and what a container leaves free."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from delora_sd.training.memory import meter
from delora_sd.training.memory.meter import container_rooms, free_bytes, peak_bytes

CPU = torch.device("cpu")
MEGABYTE = 1_000_000


def test_peak_counts_what_lives_at_one_time():
    def work() -> None:
        first = torch.ones(MEGABYTE // 4)
        second = first * 2
        del first  # its memory is free again
        third = second + 1
        third.view(2, -1)  # a view holds nothing of its own
        assert len({second.data_ptr(), third.data_ptr()}) == 2

    assert peak_bytes(CPU, work) == 2 * MEGABYTE


def test_peak_counts_what_a_backward_pass_keeps():
    x = torch.ones(MEGABYTE // 4, requires_grad=True)
    # exp keeps its result, the square its input; backward adds the gradients.
    assert peak_bytes(CPU, lambda: x.exp().square().sum().backward()) >= 3 * MEGABYTE


@pytest.mark.parametrize(("rooms", "expected"), [([500, 900], 500), ([900], 700), ([], 700)])
def test_free_memory_is_the_tightest_of_the_machine_and_its_containers(monkeypatch, rooms, expected):
    monkeypatch.setattr(meter.psutil, "virtual_memory", lambda: SimpleNamespace(available=700, total=5000))
    monkeypatch.setattr(meter, "container_rooms", lambda own_groups, mount: rooms)
    assert free_bytes(CPU) == expected


def _group(folder: Path, *, version: int, limit: str, usage: int, cached: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    names = {2: ("memory.max", "memory.current", "inactive_file"),
             1: ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")}  # fmt: skip
    limit_file, usage_file, cache = names[version]
    (folder / limit_file).write_text(f"{limit}\n")
    (folder / usage_file).write_text(f"{usage}\n")
    (folder / "memory.stat").write_text(f"anon 5\n{cache} {cached}\nactive_file 7\n")


@pytest.mark.parametrize(("version", "line"), [(2, "0::/jobs/mine\n"), (1, "9:cpu:/x\n4:memory:/jobs/mine\n")])
def test_the_limits_of_every_group_above_count_and_cached_files_do_not(tmp_path: Path, version: int, line: str):
    mount = tmp_path / "cgroup"
    top = mount if version == 2 else mount / "memory"
    _group(top / "jobs" / "mine", version=version, limit="1000", usage=700, cached=200)
    _group(top / "jobs", version=version, limit="900", usage=800, cached=0)
    (tmp_path / "own").write_text(line)
    assert sorted(container_rooms(tmp_path / "own", mount)) == [100, 500]


def test_no_limit_and_no_cgroups_leave_the_machines_memory(tmp_path: Path):
    mount = tmp_path / "cgroup"
    _group(mount, version=2, limit="max", usage=700, cached=0)
    (tmp_path / "own").write_text("0::/\n")
    assert container_rooms(tmp_path / "own", mount) == []
    assert container_rooms(tmp_path / "absent", mount) == []
