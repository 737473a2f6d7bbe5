"""At the best setting, at other rates, in prolonged training: C1 to C3."""

from delora_eval.benchmark.methods import FACTOR
from delora_eval.benchmark.report.figures.figures import steps_figure, sweep_figure
from delora_eval.benchmark.report.figures.sheets import build_sheets
from delora_eval.benchmark.report.numbers.rows import Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView, row_distances
from delora_eval.fidelity.claim import SHEETS, Claim, at_factor, over_prompts, over_steps, score_cells, score_table
from delora_eval.fidelity.comparisons import SCORES, above, compare, compare_scores, not_below
from delora_eval.pages.tables import Table

RIVALS = ("lora", "dora")


def best_settings(view: BenchmarkView) -> Claim:
    """C1: every method at what the search chose for it, on subjects the search never saw."""
    rows = {row.method: row for row in view.main.rows}
    gaps = [compare(rows["delora"], rows[name]) for name in RIVALS]
    others = [compare(rows["delora"], row) for name, row in rows.items() if name not in ("delora", *RIVALS)]
    return Claim(
        number="C1",
        text="At its best setting DeLoRA is at least as good as LoRA and DoRA (Table 3).",
        verdict=not_below(gaps),
        findings=tuple(gap.text for gap in [*gaps, *others]),
        table=score_table("Every method at its best setting", view.main.rows, view.main),
        images=tuple(over_prompts(sheet, view.main.rows, "best") for sheet in build_sheets(view)[:SHEETS]),
    )


def learning_rates(view: BenchmarkView) -> Claim:
    """C2: every group of rates multiplied, as in Figs. 2, 5 and 6."""
    raised = sorted({row.setting[FACTOR] for row in view.main.rows if row.setting[FACTOR] > 1})
    gaps, alone = [], []
    for rows in (at_factor(view, factor) for factor in raised):
        gaps += [compare(rows["delora"], rows[name]) for name in RIVALS]
        alone += [compare(rows[name], rows["delora"]) for name in rows if name.startswith("delora_")]
    shown = [row for row in view.main.rows if row.setting[FACTOR] in raised and row.method in ("delora", *RIVALS)]
    return Claim(
        number="C2",
        text="A few times above their best learning rate LoRA and DoRA break and DeLoRA does not (Fig. 2).",
        verdict=above(gaps),
        findings=tuple(gap.text for gap in [*gaps, *alone]),
        table=score_table("Against the learning rate", view.main.rows, view.main),
        drawings=(sweep_figure(view, view.main, SCORES),),
        images=(over_prompts(build_sheets(view)[-1], shown, "rates"),),
    )


def prolonged(view: BenchmarkView) -> Claim:
    """C3: the same settings at the usual length and far beyond it."""
    rows = {row.method: row for row in view.main.rows}
    early, late = min(view.main.steps), max(view.main.steps)
    gaps = [compare(rows["delora"], rows[name]) for name in RIVALS]
    growth = [f"{_growth(view, row, early, late):.2f}× for {row.label}" for row in rows.values()]
    return Claim(
        number="C3",
        text="In prolonged training LoRA and DoRA drift away and lose their images; DeLoRA keeps them (Figs. 3, 8).",
        verdict=above(gaps),
        findings=(
            f"from step {early} to {late} the distance from the pretrained weights grows {', '.join(growth)}",
            *(f"step {late}, {gap.text}" for gap in gaps),
            _later_than(view, rows["delora"], rows["lora"], late, early),
        ),
        table=_steps_table(view),
        drawings=(steps_figure(view, view.main, SCORES),),
        images=tuple(over_steps(sheet) for sheet in build_sheets(view) if sheet.over_steps)[:SHEETS],
    )


def _later_than(view: BenchmarkView, ours: Row, theirs: Row, our_step: int, their_step: int) -> str:
    """What longer training buys the one that can bear it."""
    return compare_scores(
        f"{ours.label} at step {our_step}",
        view.main.at_steps(ours)[our_step],
        f"{theirs.label} at step {their_step}",
        view.main.at_steps(theirs)[their_step],
    ).text


def _growth(view: BenchmarkView, row: Row, early: int, late: int) -> float:
    distances = row_distances(view, row)
    return distances[late] / distances[early]


def _steps_table(view: BenchmarkView) -> Table:
    lines = []
    for row in view.main.rows:
        distances = row_distances(view, row)
        for step, scores in view.main.at_steps(row).items():
            distance = "0" if step == 0 else f"{distances[step]:.2f}"
            cells = [cell for score in SCORES for cell in score_cells(scores[score])]
            lines.append((row.label, str(step), distance, *cells))
    columns = ["Method", "Step", "Distance"]
    for score in SCORES:
        columns += [view.main.label(score), "95% CI", "std over seeds"]
    return Table(name="steps", title="Over training", columns=tuple(columns), rows=tuple(lines), text_columns=2)
