"""`delora-sd language`: search, choose, run the table's cells, report. The same command again goes on."""

import shutil

from delora_eval.language.folder import Result, TableFolder
from delora_eval.language.grid import Cell, Entry, read_entries, search_cells, table_cells, tasks_of
from delora_eval.language.report.write import report_table
from delora_eval.language.run.cells import WORK, run_glue_cell, run_instructions_cell
from delora_eval.language.run.door import check_folder, check_table
from delora_eval.language.settings import LanguageConfig
from delora_sd.config.load import to_yaml
from delora_sd.files.leftovers import remove_leftovers
from delora_sd.files.locks import InUse, hold
from delora_sd.files.run_folder import write_text
from delora_sd.language.data.tasks import INSTRUCTIONS
from delora_sd.progress import ProgressDisplay

Chosen = dict[tuple[str, str], int]


def run_table(config: LanguageConfig) -> None:
    """Finishes the table and writes its report; finished cells stay, those another process makes are left to it.

    Raises:
        UserError: before anything is trained.
    """
    entries = read_entries(config)
    searched, planned = search_cells(config, entries), table_cells(config, entries, {})
    check_table(config, [*searched, *planned])
    folder = check_folder(config, [*searched, *planned])
    write_text(folder.path / "language.yaml", to_yaml(config))
    if left := _run_all(config, folder, searched, "search"):
        print(f"{left} cells of the search are being made by other processes; run the same command when they are done")
        return
    chosen = choose_points(config, entries, folder)
    cells = table_cells(config, entries, chosen)
    left = _run_all(config, folder, cells, config.title)
    report_table(config, folder, cells)
    print(f"report: {folder.page}" + (f"; {left} cells are being made by other processes" if left else ""))


def choose_points(config: LanguageConfig, entries: list[Entry], folder: TableFolder) -> Chosen:
    """Returns {(method, task): the point of `tune` with the best value}; what is not finished yet is not chosen."""
    chosen: Chosen = {}
    cells = search_cells(config, entries)
    for entry in entries:
        for task in tasks_of(config):
            values = {
                cell.point: value_of(result, config.choose)
                for cell in cells
                if cell.entry.name == entry.name and cell.training.task == task
                if (result := folder.read_result(cell)) is not None
            }
            if values:
                chosen[entry.name, task] = max(values, key=values.__getitem__)
    return chosen


def value_of(result: Result, choose: str) -> float:
    """Returns what a setting is chosen by: higher is better."""
    return result.scores["mean"] if choose == "benchmarks" else result.chosen_by


def _run_all(config: LanguageConfig, folder: TableFolder, cells: list[Cell], title: str) -> int:
    """Runs what is not finished; returns how many cells other processes hold."""
    missing = [cell for cell in cells if not folder.result_file(cell).exists()]
    left, is_shown = 0, bool(missing)
    with ProgressDisplay(
        title, total=len(cells), unit="cells", done=len(cells) - len(missing), is_shown=is_shown
    ) as bar:
        for cell in missing:
            try:
                with hold(folder.cell(cell) / ".lock", guarding=folder.cell(cell), setting="output_dir"):
                    remove_leftovers(folder.cell(cell))
                    if not folder.result_file(cell).exists():
                        _run_cell(config, folder, cell)
            except InUse:
                left += 1
                continue
            bar.advance(1)
    return left


def _run_cell(config: LanguageConfig, folder: TableFolder, cell: Cell) -> None:
    if cell.training.task == INSTRUCTIONS:
        result = run_instructions_cell(folder, cell, config.benchmarks, keeps_adapter=config.keep_adapters)
    else:
        result = run_glue_cell(folder, cell, keeps_adapter=config.keep_adapters)
    folder.write_result(cell, result)
    shutil.rmtree(folder.cell(cell) / WORK, ignore_errors=True)
