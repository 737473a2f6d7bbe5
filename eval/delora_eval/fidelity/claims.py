"""What the paper and this project claim, and what the studies answer by a stated rule."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_eval.benchmark.methods import FACTOR
from delora_eval.benchmark.report.figures.figures import steps_figure, sweep_figure
from delora_eval.benchmark.report.figures.map_figure import map_figure
from delora_eval.benchmark.report.figures.sheets import Sheet, build_sheets
from delora_eval.benchmark.report.numbers.rows import BOOTSTRAP_SEED, Row, RowScore
from delora_eval.benchmark.report.numbers.view import ProtocolView, View, row_distances
from delora_eval.pages.drawing import Drawing
from delora_eval.pages.tables import Table
from delora_eval.scoring.measures.statistics import Estimate, paired_difference
from delora_sd.files.run_folder import read_lines

SCORES = ("dino", "context_accuracy")
"""Subject and context, always side by side: overfitting raises the first and lowers the second."""

EARLY_STEPS = (1, 2, 5, 20)
SHEETS = 3
"""Subjects whose images are shown: the first by name, not the best."""


@dataclass(frozen=True, kw_only=True)
class Images:
    """Generated images in rows and columns, as one PNG."""

    name: str
    caption: str
    rows: tuple[tuple[Path | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing the paper or this project says, and what the miniature answers."""

    number: str
    text: str
    verdict: str
    """Follows from the comparisons by the rule of its kind of claim, never from a look at them."""
    findings: tuple[str, ...]
    table: Table
    drawings: tuple[Drawing, ...] = ()
    images: tuple[Images, ...] = ()


def search(view: View) -> Claim:
    methods = dict.fromkeys(row.method for row in view.main.rows)
    best = [max((row for row in view.main.rows if row.method == method), key=_subject) for method in methods]
    return Claim(
        number="Search",
        text="Settings: what scores the subject best on three other subjects, with one seed.",
        verdict="; ".join(f"{row.title}: {_subject(row):.3f}" for row in best),
        findings=(),
        table=_score_table("Every setting tried", view.main.rows, view.main),
        drawings=(map_figure(view, view.main, "delora", SCORES),),
    )


def best_settings(view: View) -> Claim:
    rows = _at_factor(view, 1)
    gaps = [compare(rows["delora"], rows[name]) for name in ("lora", "dora")]
    return Claim(
        number="C1",
        text="At its best setting DeLoRA is at least as good as LoRA and DoRA (Table 3).",
        verdict=_not_below(gaps),
        findings=tuple(gap.text for gap in gaps),
        table=_score_table("Every method at its best rate", list(rows.values()), view.main),
        images=tuple(_over_prompts(view, sheet, (1,)) for sheet in build_sheets(view)[:SHEETS]),
    )


def learning_rates(view: View) -> Claim:
    raised = sorted({row.setting[FACTOR] for row in view.main.rows if row.setting[FACTOR] > 1})
    gaps = []
    for rows in (_at_factor(view, factor) for factor in raised):
        gaps += [compare(rows["delora"], rows[name]) for name in ("lora", "dora")]
    return Claim(
        number="C2",
        text="A few times above their best learning rate LoRA and DoRA break and DeLoRA does not (Fig. 2).",
        verdict=_above(gaps),
        findings=tuple(gap.text for gap in gaps),
        table=_score_table("Against the learning rate", view.main.rows, view.main),
        drawings=(sweep_figure(view, view.main, SCORES),),
        images=(_over_prompts(view, build_sheets(view)[-1], tuple(raised)),),
    )


def prolonged(view: View) -> Claim:
    rows = {row.method: row for row in view.main.rows}
    early, late = min(view.main.steps), max(view.main.steps)
    gaps = [compare(rows["delora"], rows[name]) for name in ("lora", "dora")]
    growth = [f"{_growth(view, row, early, late):.2f}× for {row.label}" for row in rows.values()]
    return Claim(
        number="C3",
        text="In prolonged training LoRA and DoRA drift away and lose their images; DeLoRA keeps them (Figs. 3, 8).",
        verdict=_above(gaps),
        findings=(
            f"from step {early} to {late} the distance from the pretrained weights grows {', '.join(growth)}",
            *(f"step {late}, {gap.text}" for gap in gaps),
            _later_than(view, rows["delora"], rows["lora"], late, early),
        ),
        table=_steps_table(view),
        drawings=(steps_figure(view, view.main, SCORES),),
        images=tuple(_over_steps(sheet) for sheet in build_sheets(view) if sheet.over_steps)[:SHEETS],
    )


def weight_norms(view: View) -> Claim:
    scaled = next(row for row in view.main.rows if row.method == "delora")
    plain = [row for row in view.main.rows if row.method != "delora"]
    gap = compare(scaled, max(plain, key=_subject))
    return Claim(
        number="C4",
        text="Scaling the update by the frozen weight's norms helps (Table 1).",
        verdict=_above([gap]),
        findings=(gap.text, f"the rival is the best of {len(plain)} boundaries, chosen on these very scores"),
        table=_score_table("With and without weight norms", view.main.rows, view.main),
    )


def starts(view: View) -> Claim:
    sizes = {row.method: _early_sizes(view, row) for row in view.main.rows}
    first, last = EARLY_STEPS[0], max(view.main.steps)
    at_first = {name: values[first][0] for name, values in sizes.items()}
    at_last = [values[last][0] for values in sizes.values()]
    ratio = max(at_first.values()) / min(at_first.values())
    return Claim(
        number="C6",
        text="The three starts differ in their first steps, not in where training ends.",
        verdict=f"After {first} step the largest update is {ratio:.0f} times the smallest, after {last} steps "
        f"{max(at_last) / min(at_last):.1f} times",
        findings=tuple(f"{row.label}: {100 * at_first[row.method]:.2f}% after {first} step" for row in view.main.rows),
        table=_size_table(view, sizes),
    )


def mirrored_like_paper(view: View) -> Claim:
    rows = {row.method: row for row in view.main.rows}
    gaps = [compare(rows[name], rows["frozen_copy"]) for name in ("mirrored", "zero_up")]
    return Claim(
        number="C7",
        text="The mirrored start, which needs no frozen copy, does as well as the paper's start.",
        verdict=_not_below(gaps[:1]),
        findings=tuple(gap.text for gap in gaps),
        table=_score_table("Three starts", view.main.rows, view.main),
    )


def boundary_map(view: View) -> Claim:
    best, worst = max(view.main.rows, key=_subject), min(view.main.rows, key=_subject)
    return Claim(
        number="Map",
        text="Boundary against learning rate.",
        verdict=f"Best subject score {_subject(best):.3f} at {best.title}, lowest {_subject(worst):.3f} "
        f"at {worst.title}",
        findings=(f"{len(view.subjects)} subjects, {len({cell.seed for cell in view.cells})} of the seeds",),
        table=_score_table("Boundary and learning rate", view.main.rows, view.main),
        drawings=(map_figure(view, view.main, "delora", SCORES),),
    )


@dataclass(frozen=True, kw_only=True)
class Gap:
    """Paired differences of two rows over subjects, in the order of SCORES."""

    text: str
    estimates: tuple[Estimate, ...]


def compare(ours: Row, theirs: Row) -> Gap:
    """`DeLoRA − LoRA: subject +0.012 [-0.010, +0.034] (no difference shown), context ...`."""
    return _compare(ours.title, ours.scores, theirs.title, theirs.scores)


def _compare(our_name: str, ours: dict[str, RowScore], their_name: str, theirs: dict[str, RowScore]) -> Gap:
    estimates = tuple(
        paired_difference(ours[score].by_subject, theirs[score].by_subject, seed=BOOTSTRAP_SEED) for score in SCORES
    )
    parts = [
        f"{word} {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}] ({_sign(gap)})"
        for word, gap in zip(("subject", "context"), estimates, strict=True)
    ]
    return Gap(text=f"{our_name} − {their_name}: {', '.join(parts)}", estimates=estimates)


def _later_than(view: View, ours: Row, theirs: Row, our_step: int, their_step: int) -> str:
    """What longer training buys the one that can bear it."""
    return _compare(
        f"{ours.label} at step {our_step}",
        view.main.at_steps(ours)[our_step],
        f"{theirs.label} at step {their_step}",
        view.main.at_steps(theirs)[their_step],
    ).text


def _sign(gap: Estimate) -> str:
    if not gap.excludes_zero:
        return "no difference shown"
    return "higher" if gap.mean > 0 else "lower"


def _not_below(gaps: Sequence[Gap]) -> str:
    """For "at least as good as": nothing may be lower."""
    signs = {_sign(estimate) for gap in gaps for estimate in gap.estimates}
    return "Does not hold here" if "lower" in signs else "Holds here, as far as this sample shows a difference"


def _above(gaps: Sequence[Gap]) -> str:
    """For "better than": every score of every comparison higher."""
    signs = [_sign(estimate) for gap in gaps for estimate in gap.estimates]
    higher, lower = signs.count("higher"), signs.count("lower")
    if higher == len(signs):
        return "Holds here"
    if not higher and not lower:
        return "Not shown here: no comparison differs"
    if not higher:
        return "Does not hold here"
    return f"Holds here in part: {higher} of {len(signs)} comparisons are higher, {lower or 'none'} lower"


def _at_factor(view: View, factor: float) -> dict[str, Row]:
    return {row.method: row for row in view.main.rows if row.setting[FACTOR] == factor}


def _score_table(title: str, rows: Sequence[Row], protocol: ProtocolView) -> Table:
    columns = ["Method"]
    for score in SCORES:
        columns += [protocol.label(score), "95% CI", "std over seeds"]
    lines = []
    for row in rows:
        line = [row.title]
        for score in SCORES:
            line += _cells(row.scores.get(score))
        lines.append((*line, row.lost or "–"))
    return Table(name="scores", title=title, columns=(*columns, "Lost"), rows=tuple(lines))


def _cells(score: RowScore | None) -> list[str]:
    if score is None:
        return ["–"] * 3
    low, high = score.subjects.low, score.subjects.high
    spread = "–" if score.seeds.count < 2 else f"{score.seeds.std:.3f}"
    return [f"{score.subjects.mean:.3f}", f"[{low:.3f}, {high:.3f}]", spread]


def _steps_table(view: View) -> Table:
    lines = []
    for row in view.main.rows:
        distances = row_distances(view, row)
        for step, scores in view.main.at_steps(row).items():
            distance = "0" if step == 0 else f"{distances[step]:.2f}"
            lines.append((row.label, str(step), distance, *_cells(scores["dino"]), *_cells(scores["context_accuracy"])))
    names = (view.main.label(score) for score in SCORES)
    columns = ["Method", "Step", "Distance"]
    for name in names:
        columns += [name, "95% CI", "std over seeds"]
    return Table(name="steps", title="Over training", columns=tuple(columns), rows=tuple(lines), text_columns=2)


def _size_table(view: View, sizes: dict[str, dict[int, tuple[float, float]]]) -> Table:
    lines = [
        (row.label, *(f"{100 * mean:.2f} ({100 * spread:.2f})" for mean, spread in sizes[row.method].values()))
        for row in view.main.rows
    ]
    return Table(
        name="sizes",
        title="Size of the update, percent of the frozen weight's norm (std over cells)",
        columns=("Start", *(f"step {step}" for step in sizes[view.main.rows[0].method])),
        rows=tuple(lines),
    )


def _early_sizes(view: View, row: Row) -> dict[int, tuple[float, float]]:
    """{step: (mean, std over cells)} of the update's norm over the frozen weight's, mean over layers."""
    steps = (*EARLY_STEPS, max(view.main.steps))
    found: dict[int, list[float]] = {step: [] for step in steps}
    for run in view.runs(row):
        for event in read_lines(run.events):
            if event["step"] in found and "distance" in event:
                found[event["step"]].append(event["distance"])
    return {step: (statistics.fmean(values), statistics.stdev(values)) for step, values in found.items()}


def _growth(view: View, row: Row, early: int, late: int) -> float:
    distances = row_distances(view, row)
    return distances[late] / distances[early]


def _subject(row: Row) -> float:
    return row.scores["dino"].subjects.mean


def _over_steps(sheet: Sheet) -> Images:
    names = ", ".join(strip.title for strip in sheet.strips)
    return Images(
        name=f"steps_{sheet.subject}",
        caption=f"{sheet.subject}, {sheet.strips[0].tiles[-1].prompt}. Rows: {names}. "
        f"Columns: {', '.join(sheet.columns)}. Lowest seed, not chosen.",
        rows=tuple(tuple(tile.file for tile in strip.tiles) for strip in sheet.strips),
    )


def _over_prompts(view: View, sheet: Sheet, factors: tuple[float, ...]) -> Images:
    """The subject's photos, then a row per method and factor with the same prompts and seed."""
    shown = {row.title for row in view.main.rows if row.setting[FACTOR] in factors}
    strips = [strip for strip in sheet.strips if strip.title in shown]
    return Images(
        name=f"prompts_{sheet.subject}_x{'_'.join(f'{factor:g}' for factor in factors)}",
        caption=f"{sheet.subject}. First row: its photos. Then {', '.join(strip.title for strip in strips)}: "
        f"{'; '.join(sheet.columns)}. Lowest seed, not chosen.",
        rows=(sheet.photos, *(tuple(tile.file for tile in strip.tiles) for strip in strips)),
    )


CLAIMS: dict[str, tuple[Callable[[View], Claim], ...]] = {
    "search": (search,),
    "rates": (best_settings, learning_rates),
    "long": (prolonged,),
    "norm": (weight_norms,),
    "starts": (starts, mirrored_like_paper),
    "map": (boundary_map,),
}
"""{study: what it answers}."""
