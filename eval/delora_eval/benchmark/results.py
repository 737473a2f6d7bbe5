"""Scores of cells, read back from their run folders, and the step that a table shows."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.settings import CheckpointRule
from delora_eval.scoring.measures.metrics import PairMean, pool
from delora_eval.scoring.record.score_lines import ScoreLine, read_score_lines
from delora_eval.scoring.score import REFERENCE_SET

DECIDING_SCORE = "dino"
"""What `best_step_...` rules maximise: they are about subject fidelity, as in the paper's line."""

CLASS_SCORES = ("drift_dino", "drift_clip_i", "pres")
"""What images of class prompts, without the identifier, are for."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """Scores of one cell at one step under one protocol."""

    cell: Cell
    protocol: str
    step: int | None
    """None: images made elsewhere, or a different step for each prompt."""
    totals: dict[str, PairMean]
    by_prompt: dict[str, dict[int, PairMean]]
    prompts: dict[int, str]
    is_random: bool
    """True: the base model or an encoder was untrained; the numbers mean nothing."""


def read_results(folder: BenchmarkFolder, cells: Iterable[Cell]) -> list[Result]:
    """Returns the scores of every cell that has some, by cell, protocol and step."""
    return read_scores_of(folder, cells, with_prompts=True)[0]


def read_scores_of(
    folder: BenchmarkFolder, cells: Iterable[Cell], *, with_prompts: bool
) -> tuple[list[Result], dict[str, dict[str, dict[str, PairMean]]]]:
    """Returns (the scores of every cell that has some, the Real Images row as {protocol: {subject: {score: mean}}}).

    Every file is read once, and its lines are let go before the next. The means of single prompts are read only where
    they are wanted: by the rule `best_step_per_prompt`.
    """
    results: list[Result] = []
    ceilings: dict[str, dict[str, dict[str, PairMean]]] = {}
    for cell in cells:
        found = read_score_lines(folder.run(cell).scores, with_prompts=with_prompts)
        lines = [line for line in found if line.subject]
        results += _read_cell(cell, [line for line in lines if line.set != REFERENCE_SET])
        for line in lines:
            if line.set == REFERENCE_SET:
                scores = ceilings.setdefault(line.protocol, {}).setdefault(cell.subject, {})
                scores[line.score] = line.mean
    return results, ceilings


def select_steps(results: Sequence[Result], rule: CheckpointRule) -> list[Result]:
    """Returns one result per cell and protocol: the step that the rule chooses.

    A diverged cell has no last step and drops out under `fixed_step`; its row says how many did.
    """
    selected = []
    for row in _groups(results, lambda result: (result.cell.row, result.protocol)).values():
        if rule == "best_held_out":  # each cell has images of the step it chose, and perhaps of the base model
            cells = _groups(row, lambda result: result.cell.id)
            selected += [max(steps, key=lambda result: result.step or 0) for steps in cells.values()]
        elif rule == "best_step_per_prompt":
            cells = _groups(row, lambda result: result.cell.id)
            selected += [_best_of_each_prompt(steps) for steps in cells.values()]
        else:
            step = _last_step(row) if rule == "fixed_step" else _best_step(row)
            selected += [result for result in row if result.step == step]
    return selected


def score_rows(results: Iterable[Result]) -> dict[str, list[Result]]:
    """Returns {row: its results}."""
    return _groups(results, lambda result: result.cell.row)


def _read_cell(cell: Cell, lines: list[ScoreLine]) -> list[Result]:
    sets = _groups(lines, lambda line: (line.protocol, line.set))
    of_subject = {key for key, lines in sets.items() if any(line.score == DECIDING_SCORE for line in lines)}
    results = [_result(cell, protocol, sets[protocol, name]) for protocol, name in sorted(of_subject)]
    results = [result for result in results if result.step is None or result.step in cell.steps]
    return [_with_class_scores(result, cell, sets) for result in sorted(results, key=lambda result: result.step or 0)]


def _result(cell: Cell, protocol: str, lines: list[ScoreLine]) -> Result:
    by_prompt: dict[str, dict[int, PairMean]] = {}
    for line in lines:
        if line.text_number is not None:
            by_prompt.setdefault(line.score, {})[line.text_number] = line.mean
    return Result(
        cell=cell,
        protocol=protocol,
        step=_step(cell, lines[0]),
        totals={line.score: line.mean for line in lines if line.text_number is None and line.pairs},
        by_prompt=by_prompt,
        prompts={line.text_number: line.prompt for line in lines if line.text_number is not None},
        is_random=any(line.is_random for line in lines),
    )


def _with_class_scores(result: Result, cell: Cell, sets: dict[tuple[str, str], list[ScoreLine]]) -> Result:
    """Drift and PRES of the same step stand in another image set: that of the class prompts."""
    found = {
        line.score: line.mean
        for (protocol, _), lines in sets.items()
        for line in lines
        if protocol == result.protocol and line.score in CLASS_SCORES and line.text_number is None
        if _step(cell, line) == result.step
    }
    return replace(result, totals=result.totals | found)


def _step(cell: Cell, line: ScoreLine) -> int | None:
    if cell.path is not None:
        return None
    if line.is_base:
        return 0
    return line.step if line.step is not None else cell.steps[-1]


def _last_step(row: Sequence[Result]) -> int | None:
    steps = row[0].cell.steps
    return steps[-1] if steps else None


def _best_step(row: Sequence[Result]) -> int | None:
    """The step with the best mean, among those that most cells of the row have reached."""
    by_step = {step: list(results) for step, results in _groups(row, lambda result: result.step).items()}
    most = max(map(len, by_step.values()))
    complete = {step: results for step, results in by_step.items() if len(results) == most}
    return max(
        complete, key=lambda step: pool([result.totals[DECIDING_SCORE] for result in complete[step]], "subjects").value
    )


def _best_of_each_prompt(steps: Sequence[Result]) -> Result:
    """For every prompt the step with the best score, and every other score at that same step."""
    prompts = {index for result in steps for index in result.by_prompt[DECIDING_SCORE]}
    chosen = {
        index: max(
            (result for result in steps if index in result.by_prompt[DECIDING_SCORE]),
            key=lambda result, index=index: result.by_prompt[DECIDING_SCORE][index].value,
        )
        for index in prompts
    }
    by_prompt: dict[str, dict[int, PairMean]] = {}
    for index, result in sorted(chosen.items()):
        for score, means in result.by_prompt.items():
            if index in means:
                by_prompt.setdefault(score, {})[index] = means[index]
    totals = {score: pool(means.values(), "pairs") for score, means in by_prompt.items()}
    return replace(steps[-1], step=None, totals=totals, by_prompt=by_prompt)


def _groups(items: Iterable, key) -> dict:
    groups: dict = {}
    for item in items:
        groups.setdefault(key(item), []).append(item)
    return groups
