"""A plan of 10,000 cells: what is done once per row is not done once per cell, and nothing once per pair of cells."""

import itertools
from collections import Counter

import pytest

from delora_eval.benchmark import folder as folders
from delora_eval.benchmark import grid
from delora_eval.benchmark.folder import open_folder
from delora_eval.benchmark.run.cell import packs
from delora_eval.benchmark.run.cell.bench import Bench, Display
from delora_eval.benchmark.run.outlook import dry_run
from delora_eval.benchmark.run.workers import runner
from delora_eval.benchmark.run.workers.claims import Claims
from delora_sd.config import deciding
from delora_sd.training.memory.pack_size import PackMemory

NUM_SEEDS = 1250


@pytest.fixture
def large(make_config):
    """2 methods x 2 rates x 2 subjects x 1,250 seeds."""
    return make_config(matrix={"optimizer.lr": [1e-3, 1e-2]}, seeds=list(range(NUM_SEEDS)))


def test_settings_are_worked_out_per_row(large, monkeypatch):
    calls = Counter()
    monkeypatch.setattr(grid, "flatten", lambda train: calls.update(["flat"]) or deciding.flatten(train))
    cells = grid.test_cells(large)
    assert len({cell.id for cell in cells}) == 10_000
    assert calls["flat"] <= 3 * 4, "four rows: each laid flat a few times, whatever the number of cells"


def test_packs_are_found_and_measured_per_group(large, monkeypatch):
    cells, measured, compared = grid.test_cells(large), [], Counter()
    monkeypatch.setattr(packs, "pack_group", lambda train: compared.update(["row"]) or deciding.pack_group(train))

    def measure(trains):
        measured.extend(trains)
        return PackMemory(fixed_bytes=0, bytes_per_adapter=1)

    size = packs.find_pack_size("8", cells, measure=measure, say=pytest.fail)
    made = packs.make_packs(open_folder(large), cells, size)
    assert [train.adapter.method for train in measured] == ["lora", "delora"]
    assert compared["row"] == 2 * 4
    assert len(made) == 10_000 / 8 and sorted(cell.id for pack in made for cell in pack) == sorted(c.id for c in cells)
    assert dry_run.count_work(large, made).cells == 10_000


def test_runs_share_a_group_exactly_when_nothing_sets_them_apart(make_config):
    config = make_config(
        matrix={"adapter.rank": [4, 16], "adapter.boundary": [2.0, 8.0], "training.prior_weight": [0, 1]}
    )
    trains = [cell.train for cell in grid.test_cells(config)]
    for first, second in itertools.combinations(trains, 2):
        is_shared = deciding.pack_group(first) == deciding.pack_group(second)
        assert is_shared == (deciding.setting_apart(first, second) is None)


def test_the_display_knows_what_is_left_without_counting_anew(large):
    cells, said = grid.test_cells(large)[:50], []
    display = Display()
    display.say = said.append
    display.plan(cells, ["finished"] * 10 + ["half-done"] * 20 + ["waiting"] * 20)
    for cell in cells[10:14]:
        display.end(cell.id, "finished")
    display.end(cells[13].id, "failed")
    assert [line.split("; ")[1].split(",")[0] for line in said] == [f"{n} of 50 cells" for n in (11, 12, 13, 14, 14)]


def test_cells_that_have_not_begun_are_not_looked_at_one_by_one(large, monkeypatch):
    """One listing tells which have begun: on a shared disk 10,000 looks are minutes, by every worker."""
    cells, folder, looked = grid.test_cells(large), open_folder(large), []
    monkeypatch.setattr(folders, "read_outcome", lambda run: looked.append(run.path.name))
    bench = Bench(config=large, folder=folder, stages=None, display=Display(), pack_size=8)
    for cell in cells[:3]:
        folder.run(cell).path.mkdir(parents=True)
    assert runner.open_cells(bench, cells) == cells
    assert looked == [cell.id for cell in cells[:3]]
    packs_made = runner.split_into_packs(bench, cells)
    assert sum(map(len, packs_made)) == 10_000


def test_a_cell_that_ended_meanwhile_is_not_claimed(make_config, monkeypatch):
    config = make_config()
    folder, cells = open_folder(config), grid.test_cells(config)
    bench, worked = Bench(config=config, folder=folder, stages=None, display=Display()), []
    monkeypatch.setattr(runner, "settled_outcome", lambda folder, config, cell: cell is cells[0] or None)
    monkeypatch.setattr(runner, "run_pack", lambda bench, pack: worked.append(pack))
    claims = Claims(folder=folder.claims)
    claimed = []
    monkeypatch.setattr(claims, "acquire", lambda name: claimed.append(name) or True)
    assert runner._work_on(bench, claims, tuple(cells[:3]))
    assert claimed == [cell.id for cell in cells[1:3]] and worked == [tuple(cells[1:3])]
