"""Every file name in a benchmark's folder, and what is remembered there about the grid and each cell."""

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal, get_args

from delora_eval.benchmark.grid import Cell, begun_cells
from delora_eval.benchmark.methods import Point
from delora_eval.benchmark.settings import BenchmarkConfig, with_absolute_places
from delora_eval.settings import FamilyConfig
from delora_sd.config.load import flatten, load_config, to_dict, to_yaml
from delora_sd.data.subjects import is_plain_name
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import RunFolder, append_line, read_json, read_lines, write_json, write_text

MAX_ATTEMPTS = 2
"""A cell that raised an error is tried once more, then reported with its error."""

Ending = Literal["finished", "diverged", "failed"]
State = Literal["finished", "diverged", "failed", "half-done", "waiting"]

_ADVICE = "run the same `delora-sd benchmark` again"

FREE_TO_CHANGE = (
    "output_dir",
    "title",
    "paper",
    "sheet_prompts",
    "projection",
    "pack",
    "profile",
    "launcher",
    "shard",
    "ray.",
    "references",
)
FREE_TO_GROW = ("methods", "subjects", "seeds", "matrix", "factors", "steps", "protocol", "tune.")
"""A grid may grow: cells are added. Whatever else changes makes it another grid."""


@dataclass(frozen=True)
class BenchmarkFolder:
    """The files of one benchmark. Paths only; nothing is created before it is written."""

    path: Path

    @property
    def config(self) -> Path:
        """Resolved settings of the grid."""
        return self.path / "benchmark.yaml"

    @property
    def plan(self) -> Path:
        """All cells of the grid in table order: what a report needs to know of them."""
        return self.path / "plan.json"

    @property
    def chosen(self) -> Path:
        """What the search found: {method: setting and the mean score of every candidate}."""
        return self.path / "chosen.json"

    @property
    def claims(self) -> Path:
        return self.path / "claims"

    def base(self, subject: str) -> Path:
        """The base model's own images of a subject's prompts, linked into its cells."""
        return self.path / "base" / subject

    @property
    def tables(self) -> Path:
        return self.path / "tables"

    @property
    def figures(self) -> Path:
        return self.path / "figures"

    @property
    def norms(self) -> Path:
        """Weight norms of the base model (Fig. 4)."""
        return self.path / "weight_norms.json"

    @property
    def profile(self) -> Path:
        """What the floor of a cell's time is made of (`profile=true`)."""
        return self.path / "profile.json"

    @property
    def report(self) -> Path:
        return self.path / "report.html"

    @property
    def inputs(self) -> Path:
        """Hash of what the report was made from."""
        return self.path / "report.json"

    @property
    def markdown(self) -> Path:
        return self.path / "report.md"

    def run(self, cell: Cell) -> RunFolder:
        return RunFolder(cell.folder(self.path))

    def begun(self) -> frozenset[str]:
        """Returns the ids of the cells that have a folder."""
        return begun_cells(self.path)

    def is_benchmark(self) -> bool:
        return self.config.exists()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a cell ended: `outcome.json`, written when nothing is left to do in it."""

    state: Ending
    evaluation: str
    """Fingerprint of what was generated and scored; another one makes the cell unfinished."""
    reason: str | None = None
    """Why it diverged or failed."""
    seconds: dict[str, float]
    """Wall time per stage of the calls that ended well; training counts its share of the pack."""


def open_folder(config: BenchmarkConfig) -> BenchmarkFolder:
    """Returns the folder of the benchmark, created on first use.

    Raises:
        UserError: no output_dir, or a folder that holds another grid or something else.
    """
    if not config.output_dir:
        raise UserError("output_dir: missing; give a folder for the benchmark, such as output_dir=runs/table3")
    folder = BenchmarkFolder(Path(config.output_dir).expanduser())
    if folder.config.exists():
        _check_same_grid(folder, config)
    elif folder.path.exists() and (not folder.path.is_dir() or any(_visible(folder.path))):
        raise UserError(f"output_dir {folder.path} holds something else; give an empty or a benchmark's folder")
    return folder


def load_benchmark(folder: BenchmarkFolder) -> BenchmarkConfig:
    """Returns the settings a benchmark was run with. Raises UserError when the folder is none."""
    if not folder.is_benchmark():
        raise UserError(f"{folder.path} is not a benchmark folder (no {folder.config.name}); run `delora-sd benchmark`")
    config = load_config(BenchmarkConfig, [folder.config], [f"output_dir={json.dumps(str(folder.path))}"])
    for name, entry in config.methods.items():
        if not isinstance(entry, dict | None) and "." not in name:
            raise UserError(f"{folder.config}: methods.{name[:80]}: expected settings, found {_show(entry)}")
    return with_absolute_places(config)


def remember_grid(folder: BenchmarkFolder, config: BenchmarkConfig) -> None:
    """Writes the settings when they are new."""
    text = to_yaml(config)
    if not folder.config.exists() or folder.config.read_text(encoding="utf-8") != text:
        write_text(folder.config, text)


def remember_plan(folder: BenchmarkFolder, *, tune: list[Cell], test: list[Cell]) -> None:
    """Writes the cells when they are new; the training settings are in the run folders."""
    plan = {"tune": [_describe(cell) for cell in tune], "test": [_describe(cell) for cell in test]}
    if not folder.plan.exists() or read_json(folder.plan) != plan:
        write_json(folder.plan, plan)


def read_plan(folder: BenchmarkFolder) -> dict[Literal["tune", "test"], list[Cell]]:
    """Returns the cells as planned, without training settings."""
    plan, source = read_json(folder.plan), str(folder.plan)
    check_record(plan, {}, source=source, advice=_ADVICE)
    return {phase: [_read_cell(cell, source) for cell in _list(plan, phase, source)] for phase in ("tune", "test")}


def evaluation_fingerprint(config: BenchmarkConfig, cell: Cell) -> str:
    """Returns the hash of everything after training that decides the cell's scores."""
    facts = {
        "steps": cell.steps,
        "generate": config.generate,
        "drift": config.drift,
        "protocol": config.protocol,
        "lpips": config.lpips_weights,
        "encoders": {key: getattr(config.encoders, key) for key in ("weights", "weights_dir", "random_weights")},
    }
    if config.copy_risk:
        facts["copy_risk"] = True
    if config.checkpoint == "best_held_out":
        facts["checkpoint"] = config.checkpoint
    if config.judges != FamilyConfig():
        facts["judges"] = to_dict(config.judges)
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=list).encode()).hexdigest()[:16]


def read_outcome(run: RunFolder) -> Outcome | None:
    file = run.path / "outcome.json"
    if not file.exists():
        return None
    fields = {"state": str, "evaluation": str, "reason": str | None, "seconds": dict}
    record = check_record(read_json(file), fields, source=str(file), advice=f"delete it; {_ADVICE}")
    check_record(record["seconds"], dict.fromkeys(record["seconds"], float), source=str(file), advice=_ADVICE)
    if record["state"] not in get_args(Ending):
        raise UserError(f"{file}: unknown state '{record['state'][:40]}'; delete it; {_ADVICE}")
    return Outcome(**{name: record[name] for name in fields})


def write_outcome(run: RunFolder, outcome: Outcome) -> None:
    write_json(run.path / "outcome.json", asdict(outcome))


def record_failure(run: RunFolder, *, stage: str, reason: str) -> int:
    """Remembers a failed attempt; returns how many there are."""
    append_line(run.path / "attempts.jsonl", {"stage": stage, "reason": reason})
    return len(read_lines(run.path / "attempts.jsonl"))


def profile_file(run: RunFolder) -> Path:
    """Returns where the time of a cell went, {stage: {part: seconds}} (`profile=true`)."""
    return run.path / "profile.json"


def settled_outcome(folder: BenchmarkFolder, config: BenchmarkConfig, cell: Cell) -> Outcome | None:
    """Returns how the cell ended; None while something is left to do."""
    outcome = read_outcome(folder.run(cell))
    return outcome if outcome and _is_settled(outcome, evaluation_fingerprint(config, cell)) else None


def cell_states(folder: BenchmarkFolder, config: BenchmarkConfig, cells: Iterable[Cell]) -> dict[str, State]:
    """Returns {cell id: state}. One listing tells which cells have begun, and cells scored at the same steps share what
    their outcome has to say: a grid of 10,000 is looked at by every worker that begins."""
    begun, wanted, states = folder.begun(), {}, {}
    for cell in cells:
        if cell.id not in begun:
            states[cell.id] = "waiting"
            continue
        if cell.steps not in wanted:
            wanted[cell.steps] = evaluation_fingerprint(config, cell)
        outcome = read_outcome(folder.run(cell))
        states[cell.id] = outcome.state if outcome and _is_settled(outcome, wanted[cell.steps]) else "half-done"
    return states


def _is_settled(outcome: Outcome, evaluation: str) -> bool:
    return outcome.state != "finished" or outcome.evaluation == evaluation


def cell_state(folder: BenchmarkFolder, config: BenchmarkConfig, cell: Cell) -> State:
    outcome = settled_outcome(folder, config, cell)
    if outcome is not None:
        return outcome.state
    return "half-done" if folder.run(cell).path.exists() else "waiting"


def read_chosen(folder: BenchmarkFolder) -> dict[str, Point]:
    """Returns {method: the setting the search found}, {} before it has ended."""
    return {name: found["setting"] for name, found in read_search(folder).items()}


def read_search(folder: BenchmarkFolder) -> dict[str, Any]:
    """Returns {method: its setting and every candidate} as the search wrote them, {} before it has ended."""
    if not folder.chosen.exists():
        return {}
    source = str(folder.chosen)
    search = check_record(read_json(folder.chosen), {}, source=source, advice=_ADVICE)
    for name, found in search.items():
        check_record(found, {"setting": dict, "score": str}, source=f"{source}: {name[:80]}", advice=_ADVICE)
        for candidate in _list(found, "candidates", f"{source}: {name[:80]}"):
            fields = {"setting": dict, "value": float | None, "scored": int, "cells": int}
            check_record(candidate, fields, source=f"{source}: {name[:80]}: a candidate", advice=_ADVICE)
    return search


def _list(record: dict[str, Any], name: str, source: str) -> list[Any]:
    items = record.get(name)
    if not isinstance(items, list):
        raise UserError(f"{source}: '{name}' is no list; {_ADVICE}")
    return items


def _read_cell(record: Any, source: str) -> Cell:
    """A cell of the plan. Its id is the name of a folder below `cells/`, wherever the plan comes from."""
    needed = {"id": str, "method": str, "subject": str, "seed": int}
    optional = {"setting": dict, "path": str | None, "prompts": str | None}
    check_record(record, needed, optional, source=f"{source}: a cell", advice=_ADVICE)
    for name in ("id", "subject"):
        if not is_plain_name(record[name]):
            raise UserError(f"{source}: '{record[name][:80]}' is no name of a folder; {_ADVICE}")
    steps = record.get("steps")
    if not isinstance(steps, list) or not all(type(step) is int for step in steps):
        raise UserError(f"{source}: the steps of {record['id'][:80]} are no list of whole numbers; {_ADVICE}")
    known = {name: record[name] for name in (*needed, *optional) if name in record}
    return Cell(**known, steps=tuple(steps))


def _describe(cell: Cell) -> dict[str, Any]:
    return {field.name: getattr(cell, field.name) for field in fields(cell) if field.name != "train"} | {
        "steps": list(cell.steps)
    }


def _check_same_grid(folder: BenchmarkFolder, config: BenchmarkConfig) -> None:
    before, now = flatten(load_benchmark(folder)), flatten(config)
    for key, value in now.items():
        if key.startswith(FREE_TO_CHANGE) or before[key] == value:
            continue
        if key.startswith(FREE_TO_GROW) and _has_grown(before[key], value):
            continue
        raise UserError(
            f"output_dir {folder.path} holds another grid: {key} is {_show(before[key])} there and {_show(value)} now; "
            "use another output_dir (a grid may grow, not change)"
        )


def _has_grown(before: Any, now: Any) -> bool:
    """Lists may get more values, mappings more entries; an entry itself stays as it was."""
    if isinstance(before, dict) and isinstance(now, dict):
        lists = {key for key, value in before.items() if isinstance(value, list)}
        return all(
            key in now and (now[key] == value or (key in lists and _has_grown(value, now[key])))
            for key, value in before.items()
        )
    if isinstance(before, list | tuple) and isinstance(now, list | tuple):
        return "all" in now or all(value in now for value in before)
    return False


def _show(value: Any, limit: int = 60) -> str:
    text = json.dumps(value, default=list)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _visible(path: Path):
    return (entry for entry in path.iterdir() if not entry.name.startswith("."))
