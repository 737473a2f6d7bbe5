"""`delora-sd benchmark CONFIG --dry-run`: the cells, steps, images, disk and hours, before any of it is spent."""

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from delora_eval.benchmark.folder import cell_states, open_folder, read_chosen
from delora_eval.benchmark.grid import Cell, test_cells, tune_cells
from delora_eval.benchmark.report.numbers.rows import method_label, setting_label
from delora_eval.benchmark.run.cell.bench import OPEN, Bench, Display
from delora_eval.benchmark.run.cell.best_checkpoint import cell_prompts
from delora_eval.benchmark.run.cell.packs import Pack, find_pack_size
from delora_eval.benchmark.run.cell.stages import real_stages
from delora_eval.benchmark.run.outlook.probe import Probe, measure
from delora_eval.benchmark.run.workers.runner import check_door, split_into_packs
from delora_eval.benchmark.settings import BenchmarkConfig, generate_settings, with_absolute_places
from delora_sd.data.prompts import load_prompts
from delora_sd.data.subjects import find_subject
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig, GenerateConfig


@dataclass(frozen=True, kw_only=True)
class Amount:
    """What is left to do."""

    packs: int
    pack_steps: int
    """Optimizer steps, each of a whole pack."""
    adapter_steps: int
    sets: int
    images: int
    checkpoints: int
    cells: int


def print_plan(config: BenchmarkConfig) -> None:
    """Prints what the benchmark would do; nothing is written."""
    config = with_absolute_places(config)
    folder = open_folder(config)
    tune, test = tune_cells(config), test_cells(config, read_chosen(folder))
    bench = Bench(
        config=config,
        folder=folder,
        stages=real_stages(config),
        display=Display(),
    )
    check_door(bench, tune + test)
    console, states = Console(markup=False, emoji=False), cell_states(folder, config, tune + test)
    for title, cells in (("Search", tune), ("Test" if tune else "Cells", test)):
        if cells:
            console.print(_cell_table(config, states, title, cells))
    left = [cell for cell in tune + test if states[cell.id] in OPEN]
    bench.pack_size = find_pack_size(config.pack, left, measure=bench.stages.measure, say=bench.display.say)
    packs = split_into_packs(bench, left)
    amount = count_work(config, packs)
    console.print(_describe(amount, config), highlight=False)
    trainings = [pack for pack in packs if pack[0].train]
    if trainings:
        console.print(_estimate(bench, amount, max(trainings, key=len)), highlight=False, soft_wrap=True)


def count_work(config: BenchmarkConfig, packs: list[Pack]) -> Amount:
    """Returns what the packs come to; images of the base model are made once per subject."""
    cells = [cell for pack in packs for cell in pack if cell.train]
    shared = generate_settings(config)
    per_set = {data: _images_per_set(data, shared) for data in {cell.train.data for cell in cells}}
    images = sum(_own_images(config, cell, shared, per_set[cell.train.data]) for cell in cells)
    subjects = {cell.subject: cell for cell in cells}
    base_sets = int(config.drift) + int(0 in config.steps)
    return Amount(
        packs=len([pack for pack in packs if pack[0].train]),
        pack_steps=sum(pack[0].train.training.num_steps for pack in packs if pack[0].train),
        adapter_steps=sum(cell.train.training.num_steps for cell in cells),
        sets=sum(_own_sets(config, cell) for cell in cells) + base_sets * len(subjects),
        images=images + sum(per_set[cell.train.data] for cell in subjects.values()) * base_sets,
        checkpoints=sum(-(-cell.train.training.num_steps // cell.train.training.checkpoint_every) for cell in cells),
        cells=len(cells),
    )


def hours(amount: Amount, probe: Probe) -> dict[str, float]:
    """Returns {part: hours} for one worker."""
    seconds = {
        "training": amount.packs * probe.start_seconds + amount.pack_steps * probe.step_seconds,
        "images": amount.sets * probe.set_seconds + amount.images * probe.image_seconds,
        "scores": amount.images * probe.score_seconds,
    }
    return {part: value / 3600 for part, value in seconds.items()}


def disk_bytes(amount: Amount, probe: Probe) -> int:
    return (
        amount.checkpoints * probe.checkpoint_bytes
        + amount.cells * probe.adapter_bytes
        + amount.images * probe.image_bytes
    )


def _own_sets(config: BenchmarkConfig, cell: Cell) -> int:
    """Image sets made with the cell's adapter: one per scored step, and the class prompts."""
    return len([step for step in cell.steps if step > 0]) + int(config.drift)


def _own_images(config: BenchmarkConfig, cell: Cell, shared: GenerateConfig, per_set: int) -> int:
    """Images made with the cell's adapter; where the cell chooses its step, few at every step and the rest at one."""
    if config.checkpoint != "best_held_out":
        return per_set * _own_sets(config, cell)
    choosing, reporting = cell_prompts(cell, shared)
    steps = len([step for step in cell.steps if step > 0])
    subject = (len(choosing) * steps + len(reporting)) * shared.images_per_prompt
    return subject + int(config.drift) * per_set


def _images_per_set(data: DataConfig, shared: GenerateConfig) -> int:
    subject = find_subject(data)
    prompts = load_prompts(
        shared.prompts,
        identifier=data.identifier,
        class_word=subject.class_word,
        is_live=subject.is_live,
    )
    return len(prompts) * shared.images_per_prompt


def _cell_table(config: BenchmarkConfig, states: dict[str, str], title: str, cells: list[Cell]) -> Table:
    table = Table(title=f"{config.title}: {title.lower()}", title_justify="left")
    for column in ("method", "setting", "subjects", "seeds", "steps", "cells", "to do"):
        table.add_column(column, justify="left" if column in ("method", "setting") else "right")
    rows: dict[str, list[Cell]] = {}
    for cell in cells:
        rows.setdefault(cell.row, []).append(cell)
    for row in rows.values():
        first, num_open = row[0], sum(states[cell.id] in OPEN for cell in row)
        table.add_row(
            method_label(config, first.method),
            setting_label(first.setting),
            str(len({cell.subject for cell in row})),
            str(len({cell.seed for cell in row})) if first.train else "-",
            str(first.train.training.num_steps) if first.train else "-",
            str(len(row)),
            str(num_open or "-"),
        )
    return table


def _describe(amount: Amount, config: BenchmarkConfig) -> str:
    return (
        f"to do: {amount.cells} trainings in {amount.packs} packs, {amount.adapter_steps:,} steps "
        f"({amount.pack_steps:,} of whole packs), {amount.images:,} images in {amount.sets} sets, "
        f"folder {Path(config.output_dir).expanduser()}"
    )


def _estimate(bench: Bench, amount: Amount, pack: Pack) -> str:
    """One paragraph from the probe, or why there is none."""
    try:
        probe = measure(bench.config, pack, bench.stages)
    except UserError as error:
        return f"no estimate: {error}"
    parts = hours(amount, probe)
    return (
        f"estimate for one worker like this machine: {_show_hours(sum(parts.values()))} ("
        + ", ".join(f"{part} {_show_hours(value)}" for part, value in parts.items())
        + f"), {disk_bytes(amount, probe) / 1e9:.2f} GB on disk\n"
        f"measured on {pack[0].method}, other methods taken alike: {probe.step_seconds:.3f} s per step of "
        f"{probe.cells} cells in one batch, "
        f"{probe.image_seconds:.3f} s per image, {probe.score_seconds:.3f} s to score one; loading "
        f"{probe.start_seconds:.1f} s per pack and {probe.set_seconds:.1f} s per image set"
    )


def _show_hours(value: float) -> str:
    return f"{value:.1f} h" if value >= 1 else f"{value * 60:.0f} min" if value >= 1 / 60 else "under 1 min"
