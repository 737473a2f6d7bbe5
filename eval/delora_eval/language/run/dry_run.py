"""`delora-sd language --dry-run`: what a table would train and ask, and about how long; only shapes are loaded."""

from collections import Counter
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from delora_eval.language.grid import Cell, read_entries, search_cells, table_cells
from delora_eval.language.run.door import named
from delora_eval.language.settings import LanguageConfig
from delora_sd.adapters.catalogue import count_parameters
from delora_sd.language.data.glue import MINIATURE
from delora_sd.language.data.instructions import NUM_TOY_RECORDS
from delora_sd.language.data.tasks import INSTRUCTIONS, TASKS
from delora_sd.language.miniature.glue import NUM_EXAMPLES
from delora_sd.language.models.bases import find_shapes, shapes_only
from delora_sd.language.training.optimization import count_steps

MEAN_TOKENS = {
    "mnli": 40, "sst2": 14, "mrpc": 54, "cola": 12, "qnli": 52, "qqp": 32, "rte": 72, "stsb": 32, INSTRUCTIONS: 150,
}  # fmt: skip
"""Tokens of an example, about: what padding leaves of them is not known before the data is."""

NUM_INSTRUCTIONS = 49_759
QUESTION_TOKENS = 4e6
"""Of MMLU, ARC Challenge and TruthfulQA together, every choice read once."""

FLOP_PER_WEIGHT = {"trained": 4, "full": 6, "read": 2}
"""Forward, and backward to the activations; `full` also to the weights."""

SPEED = {"glue": 32e12, INSTRUCTIONS: 140e12}
"""FLOP/s of one H100-class GPU at such sizes: fp32 with TF32 on short sentences, bf16 on long ones. Assumed."""


@dataclass(frozen=True, kw_only=True)
class Price:
    """One method on one task."""

    num_parameters: int
    num_steps: int
    num_examples: float
    """Examples passed in training."""
    hours: float
    """Of one cell, on one H100-class GPU, by arithmetic."""


def print_plan(config: LanguageConfig) -> None:
    """Prints cells, trained parameters, steps and hours.

    Raises:
        UserError: settings that do not fit, or a base that is not to be had.
    """
    entries = read_entries(config)
    cells = [*search_cells(config, entries), *table_cells(config, entries, {})]
    counts = Counter((cell.entry.name, cell.training.task, cell.factor) for cell in cells)
    table = Table(title=config.title, title_justify="left")
    for heading in ("method", "task", "cells", "trained", "steps", "examples", "hours a cell", "hours"):
        table.add_column(heading, justify="left" if heading in ("method", "task") else "right")
    total, shown = 0.0, set()
    for cell in cells:
        key = (cell.entry.name, cell.training.task, cell.factor)
        if key in shown:
            continue
        shown.add(key)
        price = price_of(cell)
        total += price.hours * counts[key]
        table.add_row(
            cell.entry.label if cell.factor is None else f"{cell.entry.label} × {cell.factor:g}",
            cell.training.task,
            str(counts[key]),
            f"{price.num_parameters:,}",
            f"{price.num_steps:,}",
            f"{price.num_examples:,.0f}",
            f"{price.hours:.2f}",
            f"{price.hours * counts[key]:.1f}",
        )
    console = Console(markup=False, emoji=False)
    (console if console.is_terminal else Console(width=140, markup=False, emoji=False)).print(table)
    console.print(f"{len(cells)} cells, about {total:.1f} h on one H100-class GPU: by arithmetic, not measured.")


def price_of(cell: Cell) -> Price:
    """Returns the size of one cell's work."""
    training, task = cell.training, cell.training.task
    is_causal = task not in TASKS
    shapes = find_shapes(training.model, is_causal=is_causal)
    model = shapes_only(shapes, is_causal=is_causal)
    weights = sum(value.numel() for name, value in model.named_parameters() if "embed" not in name)
    adapter = named(training.adapter, shapes)
    parameters = 0 if cell.is_base else count_parameters(model, adapter) or 0
    num_train = _num_train(cell)
    passed = 0.0 if cell.is_base else training.tuning.num_epochs * num_train
    kind = "full" if adapter.method == "full" else "trained"
    flop = passed * MEAN_TOKENS[task] * weights * FLOP_PER_WEIGHT[kind]
    flop += QUESTION_TOKENS * weights * FLOP_PER_WEIGHT["read"] if is_causal else 0.0
    return Price(
        num_parameters=parameters,
        num_steps=0 if cell.is_base else count_steps(training.tuning, num_train),
        num_examples=passed,
        hours=flop / SPEED[INSTRUCTIONS if is_causal else "glue"] / 3600,
    )


def _num_train(cell: Cell) -> int:
    data, task = cell.training.data, cell.training.task
    if task in TASKS:
        return NUM_EXAMPLES["train"] if data.glue == MINIATURE else TASKS[task].num_train
    return NUM_TOY_RECORDS - data.held_out if data.instructions == MINIATURE else NUM_INSTRUCTIONS
