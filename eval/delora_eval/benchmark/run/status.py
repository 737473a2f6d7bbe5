"""`delora-sd status BENCHMARK`: what is finished, running, failed and left."""

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from delora_eval.benchmark.folder import BenchmarkFolder, cell_state, load_benchmark, read_outcome, read_plan
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.claims import Claims
from delora_eval.benchmark.run.live import STATES
from delora_eval.benchmark.settings import StatusConfig
from delora_sd.errors import UserError


def print_status(config: StatusConfig) -> None:
    """Prints the state of a benchmark; it only reads."""
    if not config.folder:
        raise UserError("folder: missing; give a benchmark's folder, such as `delora-sd status runs/table3`")
    folder = BenchmarkFolder(Path(config.folder).expanduser())
    settings, plan, console = load_benchmark(folder), read_plan(folder), Console(markup=False, emoji=False)
    for phase, cells in plan.items():
        if not cells:
            continue
        states = {cell.id: cell_state(folder, settings, cell) for cell in cells}
        console.print(_state_table(settings.title, phase if plan["tune"] else "", cells, states))
        _print_details(console, folder, cells, states)
    console.print(f"report: {folder.report}" if folder.report.exists() else "no report yet", highlight=False)


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
