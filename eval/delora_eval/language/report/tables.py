"""Tables 4 and 5 with the published rows beside, how sure the numbers are, and under which settings they came."""

from pathlib import Path
from typing import Any

from delora_eval.language.folder import Result
from delora_eval.language.grid import Cell
from delora_eval.language.metrics import BENCHMARK_COLUMNS, MMLU_BY_SIZE
from delora_eval.language.report.rows import Row, show
from delora_eval.language.settings import LanguageConfig
from delora_eval.language.splits import PROTOCOLS
from delora_eval.pages.tables import Table
from delora_sd.config.load import read_yaml
from delora_sd.errors import UserError, nearest_name
from delora_sd.language.data.tasks import TASKS
from delora_sd.language.training.optimization import learning_rate

MISSING = "–"
TITLES = {"mmlu": "MMLU", "arc": "ARC", "tru1": "Tru-1", "tru2": "Tru-2", MMLU_BY_SIZE: "MMLU by size"}


def published(name: str | None) -> dict[str, Any]:
    """Returns {title, note, rows} of a published table; {} for none. Raises UserError for one that is not known."""
    known = read_yaml(Path(__file__).parents[1] / "paper.yaml")
    if name is not None and name not in known:
        raise UserError(f"paper: unknown table '{name}'{nearest_name(name, tuple(known))}")
    return known[name] if name else {}


def columns_of(config: LanguageConfig) -> tuple[str, ...]:
    """Returns what a row's mean is over."""
    return config.tasks if config.table == "glue" else BENCHMARK_COLUMNS


def scores_table(config: LanguageConfig, rows: list[Row], found: list[tuple[Cell, Result | None]]) -> Table:
    """Returns the table itself: methods by tasks or benchmarks, mean ± std over seeds."""
    columns, paper = columns_of(config), published(config.paper)
    extra = (MMLU_BY_SIZE,) if config.table == "instructions" else ()
    lines = [_line(row, columns, extra) for row in rows]
    lines += [_published_line(known, columns, extra) for known in paper.get("rows", {}).values()]
    return Table(
        name=config.table,
        title=config.title,
        columns=(
            "Method",
            "Trained",
            *(_title(column) for column in columns),
            "Mean",
            *(TITLES[name] for name in extra),
        ),
        rows=tuple(lines),
        notes=tuple(_notes(config, rows, found, paper)),
    )


def certainty_table(config: LanguageConfig, rows: list[Row], found: list[tuple[Cell, Result | None]]) -> Table:
    """Returns, per task or benchmark, what one item weighs, the error by items and the spread over seeds."""
    lines = []
    for column in columns_of(config):
        counts = [result.num_items for cell, result in found if result and cell.training.task == column]
        count = counts[0] if counts else None
        errors = [row.errors[column] for row in rows if column in row.errors]
        stds = [row.scores[column].std for row in rows if column in row.scores and row.scores[column].count > 1]
        lines.append(
            (
                _title(column),
                str(count) if count else MISSING,
                f"{100 / count:.2f}" if count else MISSING,
                f"{sum(errors) / len(errors):.2f}" if errors else MISSING,
                f"{sum(stds) / len(stds):.2f}" if stds else MISSING,
            )
        )
    return Table(
        name=f"{config.table}_certainty",
        title="How sure the numbers are, in points",
        columns=("Task", "Test items", "One item", "Standard error by items", "Std over seeds"),
        rows=tuple(lines),
        notes=(
            "Errors and spreads are means over the methods. Two methods that differ by less than about twice the "
            "standard error by items are not told apart by one seed; more seeds on one test half do not help.",
        ),
    )


def settings_table(config: LanguageConfig, found: list[tuple[Cell, Result | None]]) -> Table:
    """Returns under which settings every method ran on every task."""
    lines = dict.fromkeys(_settings_line(cell) for cell, _ in found if not cell.is_base)
    return Table(
        name=f"{config.table}_settings",
        title="Settings",
        columns=("Method", "Task", "Rank", "λ", "lr", "lr of λ", "lr of the head", "Batch", "Epochs", "Dropout"),
        rows=tuple(lines),
        text_columns=2,
    )


def _settings_line(cell: Cell) -> tuple[str, ...]:
    adapter, tuning = cell.training.adapter, cell.training.tuning
    lr = learning_rate(adapter.method, tuning)
    numbers = (adapter.rank, adapter.boundary, lr, tuning.boundary_lr, lr if tuning.head_lr is None else tuning.head_lr)
    label = cell.entry.label if cell.factor is None else f"{cell.entry.label} × {cell.factor:g}"
    shown = [f"{number:.4g}" for number in (*numbers, tuning.batch_size, tuning.num_epochs, tuning.dropout)]
    return (label, _title(cell.training.task), *shown)


def _line(row: Row, columns: tuple[str, ...], extra: tuple[str, ...]) -> tuple[str, ...]:
    label = row.label if row.factor is None else f"{row.label} × {row.factor:g}"
    trained = MISSING if row.num_parameters is None else f"{row.num_parameters:,}"
    return (label, trained, *(show(row.scores.get(name)) for name in (*columns, "mean", *extra)))


def _published_line(known: dict[str, Any], columns: tuple[str, ...], extra: tuple[str, ...]) -> tuple[str, ...]:
    def text(column: str) -> str:
        if column not in known:
            return MISSING
        std = known.get(f"{column}_std")
        return f"{known[column]}" + (f" ± {std:.2f}" if std is not None else "")

    return (f"published: {known['label']}", MISSING, *(text(name) for name in (*columns, "mean", *extra)))


def _title(column: str) -> str:
    return TASKS[column].title if column in TASKS else TITLES.get(column, column)


def _notes(config: LanguageConfig, rows: list[Row], found: list[tuple[Cell, Result | None]], paper: dict) -> list[str]:
    notes = []
    if missing := sum(row.num_missing for row in rows):
        notes.append(f"{missing} cells are not finished; a mean needs them all.")
    if config.table == "glue":
        protocol = PROTOCOLS[config.protocol]
        notes.append(
            f"Protocol {config.protocol}: {protocol.source}. Mean ± sample std over seeds; the head is not counted."
        )
    else:
        versions = {name: value for _, result in found if result for name, value in result.task_versions.items()}
        tasks = ", ".join(f"{name} {value}" for name, value in sorted(versions.items()))
        notes.append(f"lm-eval, zero-shot, merged models; task versions: {tasks or 'none yet'}.")
        losses = [f"{row.label} {row.held_out_loss:.4f}" for row in rows if row.held_out_loss is not None]
        notes.append(
            f"Held-out loss: {', '.join(losses) or 'none yet'}. Settings chosen by {config.choose.replace('_', ' ')}."
        )
        if config.benchmarks.limit:
            notes.append(f"ONLY {config.benchmarks.limit} QUESTIONS PER TASK: no result.")
    if paper:
        notes.append(f"Published rows: {paper['title']}. {paper.get('note', '')}".strip())
    return notes
