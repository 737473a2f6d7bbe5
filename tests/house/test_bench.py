"""The benches themselves: a simulated grid ends, whoever is lost, and a sheet says which of its parts failed."""

from dataclasses import replace
from pathlib import Path

import pytest

from gpu_sheet import architectures, render_sheet
from simulate_scale import CLAIM, LOOK, Grid, simulate

SMALL = Grid(cells=600, workers=6, pack=10, cell_seconds=10.0, seed=1)


def test_every_pack_is_worked_on_once_and_workers_idle_only_at_the_end():
    outcome = simulate(SMALL)
    assert set(outcome.done) == set(range(60)) and set(outcome.done.values()) == {1}
    longest = max(1.0, 1 + 4 * SMALL.spread) * SMALL.pack * SMALL.cell_seconds
    assert outcome.makespan < outcome.busy / SMALL.workers + longest
    assert 0 < outcome.idle_share < longest / outcome.makespan


def test_the_packs_of_lost_workers_are_taken_over_after_the_lease():
    outcome = simulate(replace(SMALL, lost=2))
    assert set(outcome.done) == set(range(60)), "nothing stays undone"
    assert outcome.makespan > simulate(SMALL).makespan


def test_each_worker_looks_at_each_cell_twice_and_claims_its_own():
    outcome = simulate(replace(SMALL, cell_seconds=1.0))  # no heartbeat in ten seconds
    looks, claims = 2 * SMALL.workers * SMALL.cells * LOOK, SMALL.cells * CLAIM
    assert sum(outcome.operations.values()) == looks + claims


@pytest.mark.parametrize("workers", [1, 64])
def test_more_workers_than_packs_are_no_harm(workers: int):
    outcome = simulate(Grid(cells=20, workers=workers, pack=10))
    assert set(outcome.done.values()) == {1} and len(outcome.done) == 2


def test_a_sheet_shows_every_part_and_names_those_that_failed(tmp_path: Path):
    for name, status, text in (("01-a", "0", "| x |\n| --- |\n| 1 |"), ("02-b", "124", "half"), ("03-c", "1", "")):
        (tmp_path / f"{name}.title").write_text(f"Title of {name}\n")
        (tmp_path / f"{name}.command").write_text("python it\n")
        (tmp_path / f"{name}.cost").write_text(f"7 {status}\n")
        (tmp_path / f"{name}.txt").write_text(text)
        (tmp_path / f"{name}.err").write_text("Traceback\nMemoryError: too large\n")
    sheet = render_sheet(tmp_path)
    assert "## Title of 01-a\n\n`python it`, 7 s\n\n| x |" in sheet
    assert "**Failed (124):** time was up\n\n```\nhalf\n```" in sheet
    assert "**Failed (1):** MemoryError: too large" in sheet


def test_every_architecture_with_random_weights_is_on_the_sheet():
    assert "sd15-architecture" in architectures()
