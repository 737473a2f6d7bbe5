"""The files of a language table, and what a finished cell says: the contract between running and reporting."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from delora_eval.language.grid import Cell
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_json, write_json

_ADVICE = "delete its folder and run the table again"
_FIELDS = {
    "scores": dict, "errors": dict, "chosen_by": float | None, "num_items": int | None, "num_parameters": int,
    "seconds": float, "weights": str, "versions": dict, "task_versions": dict, "device": str,
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Result:
    """What one cell found."""

    scores: dict[str, float]
    """{metric: percent} on the test half, or {column: percent} of the benchmarks."""
    errors: dict[str, float]
    """{metric or column: standard error in points} over the items asked."""
    chosen_by: float | None
    """Best value on the validation half in percent, or minus the lowest held-out loss; None: the base model."""
    num_items: int | None
    """Items of the test half; None: the benchmarks count their own."""
    num_parameters: int
    seconds: float
    weights: str
    """SHA-256 of the base's weights."""
    versions: dict[str, str | None]
    task_versions: dict[str, Any]
    device: str
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass(frozen=True)
class TableFolder:
    """Paths only; nothing is created before it is written."""

    path: Path

    @property
    def config(self) -> Path:
        return self.path / "language.yaml"

    @property
    def page(self) -> Path:
        return self.path / "report.html"

    @property
    def markdown(self) -> Path:
        return self.path / "report.md"

    @property
    def tables(self) -> Path:
        return self.path / "tables"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    def cell(self, cell: Cell) -> Path:
        return self.path / "cells" / cell.name

    def result_file(self, cell: Cell) -> Path:
        """A cell is finished when this is there."""
        return self.cell(cell) / "result.json"

    def read_result(self, cell: Cell) -> Result | None:
        """Returns a finished cell's result; None before. Raises UserError when the file is not what we write."""
        file = self.result_file(cell)
        if not file.exists():
            return None
        values = check_record(read_json(file), _FIELDS, source=str(file), advice=_ADVICE)
        for name in ("scores", "errors"):
            facts = values[name]
            check_record(facts, dict.fromkeys(facts, float), source=f"{file}: {name}", advice=_ADVICE)
        known = {*_FIELDS, "history"}
        if unknown := set(values) - known:
            raise UserError(f"{file}: unknown field '{min(unknown)}'; {_ADVICE}")
        return Result(**values)

    def write_result(self, cell: Cell, result: Result) -> None:
        write_json(self.result_file(cell), vars(result))
