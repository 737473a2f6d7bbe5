"""One worker of a benchmark: search, choose, test, report. Any number of workers share a folder by claims."""

import random
import time
from collections.abc import Callable
from dataclasses import replace

from delora_eval.benchmark.folder import (
    BenchmarkFolder,
    cell_states,
    open_folder,
    read_chosen,
    remember_grid,
    remember_plan,
    settled_outcome,
)
from delora_eval.benchmark.grid import Cell, test_cells, tune_cells
from delora_eval.benchmark.paper import paper_names
from delora_eval.benchmark.run.cell.bench import OPEN, Bench, Display, Stages
from delora_eval.benchmark.run.cell.best_checkpoint import check_references
from delora_eval.benchmark.run.cell.packs import Pack, check_pack_setting, find_pack_size, make_packs
from delora_eval.benchmark.run.cell.profile import write_floor
from delora_eval.benchmark.run.cell.stages import run_pack
from delora_eval.benchmark.run.workers.choose import check_choice, choose_settings
from delora_eval.benchmark.run.workers.claims import Claims
from delora_eval.benchmark.run.workers.norms import write_weight_norms
from delora_eval.benchmark.settings import BenchmarkConfig, generate_settings
from delora_sd.data.held_out import find_run_subject, load_run_subject
from delora_sd.data.recorded import recognise_subject
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.leftovers import remove_leftovers
from delora_sd.files.run_folder import read_lines, write_json

MOST_LOOKED_AT = 50
"""Cells that are looked at one by one; of more, one listing tells first which have begun at all."""

POLL_SECONDS = 5.0
"""How often a worker that waits for others looks again."""

RunCells = Callable[[Bench, list[Cell], bool], None]
"""(bench, cells, must_all_end): works on the cells; waits for those of other workers when all must end.
Launchers differ in nothing else."""


def run_phases(config: BenchmarkConfig, stages: Stages, run_cells: RunCells) -> BenchmarkFolder:
    """Runs the search, chooses, runs the test; finished cells are skipped. Returns the folder.

    Raises:
        UserError: whatever can be known before the first cell starts.
    """
    folder = open_folder(config)
    tune, test = tune_cells(config), test_cells(config, read_chosen(folder))
    bench = Bench(config=config, folder=folder, stages=stages, display=Display(title=config.title))
    check_door(bench, tune + test)
    remember_grid(folder, config)
    remember_plan(folder, tune=tune, test=test)
    if config.weight_norms:
        write_weight_norms(config, folder)
    if config.profile:
        write_floor(folder, tune + test)
    if tune and (not folder.chosen.exists() or open_cells(bench, tune)):
        _run_phase(bench, "search", tune, run_cells, must_all_end=True)
        write_json(folder.chosen, choose_settings(config, folder, tune))
        test = test_cells(config, read_chosen(folder))
        remember_plan(folder, tune=tune, test=test)
    _run_phase(bench, "test" if tune else "", test, run_cells, must_all_end=False)
    return folder


def check_door(bench: Bench, cells: list[Cell]) -> None:
    """Raises UserError for what would stop every cell later: photos, settings, encoders; looks at open cells only."""
    from delora_eval.scoring.judges.family import CLASSIC, judge_names
    from delora_eval.scoring.judges.protocols import find_protocol
    from delora_sd.training.before.door import check_config

    config = bench.config
    generate_settings(config)
    check_pack_setting(config.pack)
    for name in config.protocol:
        if name != "auto" and find_protocol(name).matches_substring:
            raise UserError(
                f"protocol: {name} mixes the folders of subjects, which a benchmark scores one by one; "
                "score two folders instead: delora-sd score reference=PHOTOS generated=IMAGES oft_substring_bug=true"
            )
    if CLASSIC not in judge_names(config.judges.set):
        raise UserError("judges.set: a benchmark needs `classic` too, its tables choose by DINO; give judges.set=all")
    check_choice(config.tune.choose)
    check_references(config, cells)
    if config.paper is not None and config.paper not in paper_names():
        raise UserError(f"paper: '{config.paper}'{nearest_name(config.paper, paper_names())}")
    left = open_cells(bench, cells)
    for cell in {cell.row: cell for cell in left if cell.train}.values():
        check_config(replace(cell.train, output_dir=str(bench.folder.path)))
    for train in {cell.subject: cell.train for cell in left if cell.train}.values():
        load_run_subject(train)
    _check_photos(bench, cells, {cell.subject for cell in left})


def _check_photos(bench: Bench, cells: list[Cell], subjects: set[str]) -> None:
    """Raises UserError when a cell of one of the subjects was trained on other photos than new cells would be."""
    advice = "bring them back, or use another output_dir: cells on other photos are no rows of one table"
    for cell in cells:
        run = bench.folder.run(cell)
        if cell.train and cell.subject in subjects and run.manifest.exists():
            recognise_subject(run, find_run_subject(cell.train), advice=advice)


def share_cells(index: int, count: int, *, owner: str | None = None) -> RunCells:
    """Returns the work of one of `count` workers: its own share of the packs first, then what nobody has claimed."""

    def run_cells(bench: Bench, cells: list[Cell], must_all_end: bool) -> None:
        claims = Claims(folder=bench.folder.claims, **({"owner": owner} if owner else {}))
        with claims.heartbeat():
            while left := open_cells(bench, cells):
                worked = [
                    _work_on(bench, claims, pack) for pack in in_turn(split_into_packs(bench, left), index, count)
                ]
                if not any(worked) and not must_all_end:
                    return
                if not any(worked):
                    _wait_for_others(bench, claims, cells)

    return run_cells


def open_cells(bench: Bench, cells: list[Cell]) -> list[Cell]:
    """Returns the cells in which something is left to do."""
    if len(cells) > MOST_LOOKED_AT:
        states = cell_states(bench.folder, bench.config, cells)
        return [cell for cell in cells if states[cell.id] in OPEN]
    return [cell for cell in cells if settled_outcome(bench.folder, bench.config, cell) is None]


def split_into_packs(bench: Bench, cells: list[Cell]) -> list[Pack]:
    """Returns the cells in packs; a cell that failed once goes alone, so that it cannot take others with it again."""
    begun = bench.folder.begun()
    failed = {cell.id for cell in cells if cell.id in begun and _has_failed(bench, cell)}
    alone = [(cell,) for cell in cells if cell.id in failed]
    return make_packs(bench.folder, [cell for cell in cells if cell.id not in failed], bench.pack_size) + alone


def _has_failed(bench: Bench, cell: Cell) -> bool:
    return bool(read_lines(bench.folder.run(cell).path / "attempts.jsonl"))


def parse_shard(text: str) -> tuple[int, int]:
    """Returns (index, count) of `i/n`. Raises UserError for anything else."""
    index, slash, count = text.partition("/")
    if not (slash and index.isdigit() and count.isdigit() and 0 <= int(index) < int(count)):
        raise UserError(f"shard: '{text}'; expected i/n with 0 <= i < n, such as 0/4")
    return int(index), int(count)


def in_turn(packs: list[Pack], index: int, count: int) -> list[Pack]:
    """Every `count`-th pack first, then the others from there on, so that helpers spread out."""
    own, others = packs[index::count], [pack for place, pack in enumerate(packs) if place % count != index]
    turn = len(others) * index // count
    return own + others[turn:] + others[:turn]


def _run_phase(bench: Bench, phase: str, cells: list[Cell], run_cells: RunCells, *, must_all_end: bool) -> None:
    bench.display.title = f"{bench.config.title}{f', {phase}' if phase else ''}"
    states = cell_states(bench.folder, bench.config, cells)
    bench.display.plan(cells, [states[cell.id] for cell in cells])
    if left := [cell for cell in cells if states[cell.id] in OPEN]:
        with bench.display.running():
            if bench.config.launcher != "ray":  # there, packs run on machines whose memory is not ours to measure
                bench.pack_size = find_pack_size(
                    bench.config.pack, left, measure=bench.stages.measure, say=bench.display.say
                )
            run_cells(bench, cells, must_all_end)


def _work_on(bench: Bench, claims: Claims, pack: Pack) -> bool:
    """Runs what nobody else holds of the pack; False when nothing was left of it.

    Looking costs the file system a quarter of a claim: cells that ended since the packs were made are not claimed.
    """
    held = [cell for cell in open_cells(bench, list(pack)) if claims.acquire(cell.id)]
    try:
        mine = tuple(cell for cell in held if settled_outcome(bench.folder, bench.config, cell) is None)
        for cell in mine:
            remove_leftovers(bench.folder.run(cell).path)
        if mine:
            run_pack(bench, mine)
        return bool(mine)
    finally:
        for cell in held:
            claims.release(cell.id)


def _wait_for_others(bench: Bench, claims: Claims, cells: list[Cell]) -> None:
    holders = {claims.holder(cell.id) for cell in open_cells(bench, cells)} - {None}
    if holders:
        bench.display.begin("wait for", sorted(holders))
    time.sleep(POLL_SECONDS * random.uniform(0.5, 1.0))
