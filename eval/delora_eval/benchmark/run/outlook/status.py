"""`delora-sd status FOLDER`: what is finished, running, failed and left, in a run or a benchmark."""

from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from delora_eval.benchmark.folder import (
    BenchmarkFolder,
    cell_state,
    cell_states,
    load_benchmark,
    read_outcome,
    read_plan,
)
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.cell.bench import OPEN, STATES
from delora_eval.benchmark.run.workers.claims import Claims
from delora_eval.benchmark.settings import BenchmarkConfig, StatusConfig
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.files.run_state import RunState, read_run_state


def print_status(config: StatusConfig) -> None:
    """Prints how far a run or a benchmark is; it only reads."""
    folder, console = _folder(config), Console(markup=False, emoji=False)
    if not folder.is_benchmark() and RunFolder(folder.path).config.is_file():
        console.print(_run_line(folder.path, read_run_state(RunFolder(folder.path))), highlight=False, soft_wrap=True)
        return
    settings, plan = load_benchmark(folder), read_plan(folder)
    for phase, cells in plan.items():
        if not cells:
            continue
        states = cell_states(folder, settings, cells)
        console.print(_state_table(settings.title, phase if plan["tune"] else "", cells, states))
        _print_details(console, folder, cells, states)
    console.print(f"report: {folder.report}" if folder.report.exists() else "no report yet", highlight=False)


def describe_status(config: StatusConfig) -> dict[str, Any]:
    """Returns the same for a program: of a run its state, of a benchmark every cell's."""
    folder = _folder(config)
    if not folder.is_benchmark() and RunFolder(folder.path).config.is_file():
        return {"run": str(folder.path), **asdict(read_run_state(RunFolder(folder.path)))}
    settings, claims = load_benchmark(folder), Claims(folder=folder.claims)
    cells = [
        _describe_cell(folder, settings, claims, cell) | {"phase": phase}
        for phase, planned in read_plan(folder).items()
        for cell in planned
    ]
    counts = Counter(cell["state"] for cell in cells)
    return {
        "benchmark": str(folder.path),
        "title": settings.title,
        "counts": {state: counts[state] for state in STATES},
        "cells": cells,
        "report": str(folder.report) if folder.report.exists() else None,
    }


def _folder(config: StatusConfig) -> BenchmarkFolder:
    if not config.folder:
        raise UserError("folder: missing; give a run's or a benchmark's, such as `delora-sd status runs/table3`")
    return BenchmarkFolder(Path(config.folder).expanduser())


def _run_line(path: Path, state: RunState) -> str:
    parts = [f"{path}: {state.state}", f"step {state.step} of {state.num_steps}"]
    parts += [f"loss {state.loss:.4f}"] if state.loss is not None else []
    parts += [f"with {state.holder}"] if state.holder else []
    return ", ".join(parts) + (f": {state.reason}" if state.reason else "")


def _describe_cell(folder: BenchmarkFolder, settings: BenchmarkConfig, claims: Claims, cell: Cell) -> dict[str, Any]:
    state = cell_state(folder, settings, cell)
    ended = read_outcome(folder.run(cell)) if state in ("diverged", "failed") else None
    return {
        "id": cell.id,
        "method": cell.method,
        "subject": cell.subject,
        "seed": cell.seed,
        "state": state,
        "reason": ended.reason if ended else None,
        "holder": claims.holder(cell.id) if state in OPEN else None,
    }


def _state_table(title: str, phase: str, cells: list[Cell], states: dict[str, str]) -> Table:
    table = Table(title=f"{title} {phase}".strip(), title_justify="left")
    table.add_column("method")
    for state in STATES:
        table.add_column(state, justify="right")
    counts = Counter((cell.method, states[cell.id]) for cell in cells)
    for method in dict.fromkeys(cell.method for cell in cells):
        table.add_row(method, *(str(counts[method, state] or "") for state in STATES))
    return table


def _print_details(console: Console, folder: BenchmarkFolder, cells: list[Cell], states: dict[str, str]) -> None:
    claims = Claims(folder=folder.claims)
    for cell in cells:
        if states[cell.id] in ("diverged", "failed"):
            line = f"{cell.id}: {states[cell.id]}: {read_outcome(folder.run(cell)).reason}"
        elif holder := claims.holder(cell.id):
            line = f"{cell.id}: with {holder}"
        else:
            continue
        console.print(line, markup=False, highlight=False, soft_wrap=True)
