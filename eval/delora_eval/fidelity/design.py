"""What DeLoRA is made of, piece by piece: C4 to C7."""

import itertools
import statistics

from delora_eval.benchmark.report.numbers.rows import Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.fidelity.claim import Claim, score_table, subject_mean
from delora_eval.fidelity.comparisons import above, compare, not_below
from delora_eval.pages.tables import Table
from delora_sd.files.run_folder import read_lines

EARLY_STEPS = (1, 2, 5, 20)

LADDER = ("lora", "normalized_lora", "delora")
"""Table 1 from LoRA to DeLoRA: each rung adds one thing, and the paper's order is theirs from worst to best."""


def weight_norms(view: BenchmarkView) -> Claim:
    """C4: with and without the norms, the boundary searched on both sides."""
    scaled = [row for row in view.main.rows if row.method == "delora"]
    plain = [row for row in view.main.rows if row.method != "delora"]
    gap = compare(max(scaled, key=subject_mean), max(plain, key=subject_mean))
    return Claim(
        number="C4",
        text="Scaling the update by the frozen weight's norms helps (Table 1).",
        verdict=above([gap]),
        findings=(
            gap.text,
            f"each side at the best of its boundaries ({len(scaled)} and {len(plain)}), chosen on these very scores",
        ),
        table=score_table("With and without weight norms", view.main.rows, view.main),
    )


def ladder(view: BenchmarkView) -> Claim:
    """C5: every rung of Table 1 at the better of its settings; the order of three rungs is the claim."""
    rows = view.main.rows
    best = {
        method: max((row for row in rows if row.method == method), key=subject_mean)
        for method in dict.fromkeys(row.method for row in rows)
    }
    climbs = [compare(best[upper], best[lower]) for lower, upper in itertools.pairwise(LADDER)]
    order = sorted(best.values(), key=subject_mean)
    return Claim(
        number="C5",
        text="Each rung of Table 1 from LoRA to DeLoRA is better than the one below.",
        verdict=above(climbs),
        findings=(
            *(gap.text for gap in climbs),
            "from the lowest subject score to the highest: " + ", ".join(row.title for row in order),
            "each rung at the best of its settings, chosen on these very scores",
        ),
        table=score_table("The rungs of Table 1", rows, view.main),
    )


def starts(view: BenchmarkView) -> Claim:
    """C6: how large the update is after the first steps and at the end."""
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


def mirrored_like_paper(view: BenchmarkView) -> Claim:
    """C7: the start of ours against the paper's, peft's beside them."""
    rows = {row.method: row for row in view.main.rows}
    gaps = [compare(rows[name], rows["frozen_copy"]) for name in ("mirrored", "zero_up")]
    return Claim(
        number="C7",
        text="The mirrored start, which needs no frozen copy, does as well as the paper's start.",
        verdict=not_below(gaps[:1]),
        findings=tuple(gap.text for gap in gaps),
        table=score_table("Three starts", view.main.rows, view.main),
    )


def _size_table(view: BenchmarkView, sizes: dict[str, dict[int, tuple[float, float]]]) -> Table:
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


def _early_sizes(view: BenchmarkView, row: Row) -> dict[int, tuple[float, float]]:
    """{step: (mean, std over cells)} of the update's norm over the frozen weight's, mean over layers."""
    steps = (*EARLY_STEPS, max(view.main.steps))
    found: dict[int, list[float]] = {step: [] for step in steps}
    for run in view.runs(row):
        for event in read_lines(run.events):
            if event["step"] in found and "distance" in event:
                found[event["step"]].append(event["distance"])
    return {
        step: (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
        for step, values in found.items()
    }
