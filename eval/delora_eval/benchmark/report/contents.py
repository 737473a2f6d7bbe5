"""The tables of a report, from its numbers. Subject fidelity never stands without prompt fidelity beside it."""

import itertools

from delora_eval.benchmark.report.numbers.agreement import agreement_table
from delora_eval.benchmark.report.numbers.rows import (
    BOOTSTRAP_SEED,
    MISSING,
    Row,
    setting_label,
    show_bytes,
    show_count,
    show_difference,
    show_interval,
    show_pair,
    show_paper,
    show_score,
    show_seconds,
)
from delora_eval.benchmark.report.numbers.times import time_table
from delora_eval.benchmark.report.numbers.view import BenchmarkView, ProtocolView
from delora_eval.pages.tables import Table
from delora_eval.scoring.measures.metrics import SCORES
from delora_eval.scoring.measures.statistics import Estimate, paired_difference
from delora_eval.scoring.record.costs import read_costs

MOST_COMPARED_ROWS = 6
"""Up to here every pair of rows is compared."""

MOST_COLUMNS = 10
"""Rows that a per-subject table shows as columns; scores.csv has them all."""


def build_tables(view: BenchmarkView) -> list[Table]:
    """Returns every table that has something to show, the main one first."""
    tables = [table for protocol in view.protocols for table in _protocol_tables(view, protocol)]
    tables += [search_table(view), cost_table(view), time_table(view), judge_cost_table(view)]
    tables += [failures_table(view)]
    return [table for table in tables if table.rows]


def main_table(view: BenchmarkView, protocol: ProtocolView) -> Table:
    """The paper's form: a row per method, its parameters, its scores, and the paper's numbers beside ours."""
    paper = view.paper.get("rows", {})
    scores = [score for score in view.leading if any(score in row.scores for row in protocol.rows)]
    columns = ["Method", "Parameters"]
    for score in scores:
        columns += [protocol.label(score), "95% CI"]
    columns += ["DINO, paper", "CLIP-I, paper"] if paper else []
    rows = [_real_row(protocol, scores, paper)] if protocol.real else []
    rows += [_method_row(row, scores, paper) for row in protocol.rows]
    return Table(
        name=_name("results", view, protocol),
        title=f"Results, protocol {protocol.protocol.name}",
        columns=tuple(columns),
        rows=tuple(rows),
        notes=tuple(_main_notes(view, protocol)),
        tags=tuple({"method": row[0]} for row in rows),
    )


def difference_table(view: BenchmarkView, protocol: ProtocolView) -> Table:
    """Paired differences over the subjects both have: what is left when easy and hard subjects cancel."""
    rows = [row for row in protocol.rows if view.subject_score in row.scores]
    pairs = _compared(rows)
    scores = [score for score in view.leading if all(score in row.scores for row in rows)]
    lines = [
        (f"{second.title} − {first.title}", *(show_difference(_difference(first, second, score)) for score in scores))
        for first, second in pairs
        if all(first.scores[score].by_subject.keys() & second.scores[score].by_subject.keys() for score in scores)
    ]
    return Table(
        name=_name("differences", view, protocol),
        title=f"Paired differences over subjects, protocol {protocol.protocol.name}",
        columns=("Difference", *(protocol.label(score) for score in scores)),
        rows=tuple(lines),
        notes=(
            "Mean difference over subjects (of means over seeds) with its 95% bootstrap interval; * the interval "
            "leaves out 0. Intervals are not corrected for the number of comparisons.",
        ),
    )


def steps_table(view: BenchmarkView, protocol: ProtocolView) -> Table:
    """Scores and distance at every checkpoint."""
    rows = []
    for row in protocol.rows if len(protocol.steps) > 1 else ():
        distances = view.distances(row)
        for step, scores in protocol.at_steps(row).items():
            distance = distances.get(step)
            shown = [show_score(scores.get(score)) for score in view.leading]
            rows.append((row.title, str(step), *shown, MISSING if distance is None else f"{distance:.3g}"))
    return Table(
        name=_name("steps", view, protocol),
        title=f"Over training, protocol {protocol.protocol.name}",
        columns=("Method", "Step", *(protocol.label(score) for score in view.leading), "Distance"),
        rows=tuple(rows),
        notes=(f"Distance: Euclidean, {_distance_of(view)}; mean over cells.",),
        tags=tuple({"method": row[0]} for row in rows),
    )


def further_table(view: BenchmarkView, protocol: ProtocolView) -> Table:
    """Diversity, copies, drift: what a high subject score may have cost."""
    leading = view.leading
    names = [name for name in SCORES if name not in leading and any(name in row.scores for row in protocol.rows)]
    rows = [(row.title, *(show_score(row.scores.get(name)) for name in names)) for row in protocol.rows]
    return Table(
        name=_name("further", view, protocol),
        title=f"What else the images say, protocol {protocol.protocol.name}",
        columns=("Method", *(protocol.label(name) for name in names)),
        rows=tuple(rows) if names else (),
        notes=tuple(f"{protocol.label(name)}: {SCORES[name].meaning}" for name in names),
        tags=tuple({"method": row[0]} for row in rows),
    )


def subject_table(view: BenchmarkView, protocol: ProtocolView) -> Table:
    """DINO and CLIP-T of every subject, a column per method."""
    score = view.subject_score
    shown = [row for row in protocol.rows if score in row.scores][:MOST_COLUMNS]
    lines = []
    for subject in view.subjects:
        ceiling = protocol.ceilings.get(subject, {}).get(score)
        cells = [show_pair(row, subject, (score, "clip_t")) for row in shown]
        lines.append((subject, MISSING if ceiling is None else f"{ceiling:.3f}", *cells))
    return Table(
        name=_name("subjects", view, protocol),
        title=f"Per subject: {protocol.label(score)} / {protocol.label('clip_t')}, protocol {protocol.protocol.name}",
        columns=("Subject", "Real photos", *(row.title for row in shown)),
        rows=tuple(lines),
        notes=(f"Means over seeds. Real photos: their own {protocol.label(score)}. scores.csv has every score.",),
        tags=tuple({"subject": line[0]} for line in lines),
    )


def search_table(view: BenchmarkView) -> Table:
    """Every candidate of the search, the chosen one marked."""
    rows = [
        (
            method,
            setting_label(candidate["setting"]) + (" (chosen)" if candidate["setting"] == found["setting"] else ""),
            MISSING if candidate["value"] is None else f"{candidate['value']:.4f}",
            f"{candidate['scored']} of {candidate['cells']}",
        )
        for method, found in view.chosen.items()
        for candidate in found["candidates"]
    ]
    score = next((view.label(found["score"]) for found in view.chosen.values()), "Score")
    subjects = ", ".join(dict.fromkeys(cell.subject for cell in view.searched))
    return Table(
        name="search",
        title=f"Search on {subjects}",
        columns=("Method", "Setting", score, "Cells scored"),
        rows=tuple(rows),
        text_columns=2,
        notes=("The best mean decides; a setting in which a cell diverged or failed is never chosen.",),
    )


def cost_table(view: BenchmarkView) -> Table:
    """Time, memory, parameters, file size."""
    rows = view.main.rows if view.main else ()
    lines = [
        (
            row.title,
            show_count(row.cost.parameters),
            show_bytes(row.cost.file_bytes),
            show_seconds(row.cost.train_seconds),
            str(row.cost.pack or MISSING),
            show_bytes(row.cost.peak_bytes),
            show_seconds(row.cost.generate_seconds),
        )
        for row in rows
    ]
    devices = ", ".join(sorted({facts["device"] for facts in view.manifests if "device" in facts}))
    return Table(
        name="cost",
        title="Cost per cell",
        columns=("Method", "Parameters", "Adapter file", "Training", "Pack", "Peak GPU memory", "Generation"),
        rows=tuple(lines),
        notes=(
            f"On {devices or 'an unknown device'}. Training: wall time of the last uninterrupted call with loading, "
            "divided by the cells trained in one batch (pack). Peak memory is that of the whole pack.",
        ),
        tags=tuple({"method": line[0]} for line in lines),
    )


def judge_cost_table(view: BenchmarkView) -> Table:
    """What each judge took, over all cells; empty with DINO and CLIP alone, whose cost nobody asks for."""
    costs: dict[str, list[dict]] = {}
    for cell in view.cells:
        for encoder, cost in read_costs(view.folder.run(cell).scores).items():
            costs.setdefault(encoder, []).append(cost)
    lines = []
    for encoder, shares in costs.items():
        seconds, images = (sum(share[key] for share in shares) for key in ("seconds", "images"))
        devices = ", ".join(sorted({share["device"] for share in shares}))
        lines.append((encoder, devices, show_seconds(seconds), str(images), f"{seconds / images:.4f}"))
    return Table(
        name="judge_cost",
        title="Cost of the judges",
        columns=("Judge", "Device", "Total", "Images", "Seconds an image"),
        rows=tuple(lines),
        text_columns=2,
        notes=("In the judge's network; reading and resizing images, shared by the judges, is not in it.",),
    )


def failures_table(view: BenchmarkView) -> Table:
    """Cells without a full result, and why."""
    rows = [(name, view.states[name], reason or "") for name, reason in view.reasons.items()]
    return Table(
        name="failures",
        title="Cells that diverged or failed",
        columns=("Cell", "State", "Why"),
        rows=tuple(rows),
        text_columns=3,
    )


def scores_csv(view: BenchmarkView) -> Table:
    """Every number of the benchmark in long form."""
    rows = [
        (
            result.cell.id,
            result.cell.method,
            setting_label(result.cell.setting),
            result.cell.subject,
            str(result.cell.seed),
            "" if result.step is None else str(result.step),
            protocol.protocol.name,
            score,
            f"{mean.value:.6f}",
            str(mean.pairs),
        )
        for protocol in view.protocols
        for result in protocol.results
        for score, mean in result.totals.items()
    ]
    columns = ("cell", "method", "setting", "subject", "seed", "step", "protocol", "score", "value", "pairs")
    return Table(name="scores", title="All scores", columns=columns, rows=tuple(rows), text_columns=8)


def _protocol_tables(view: BenchmarkView, protocol: ProtocolView) -> list[Table]:
    builders = (main_table, difference_table, agreement_table, steps_table, further_table, subject_table)
    return [build(view, protocol) for build in builders]


def _real_row(protocol: ProtocolView, scores: list[str], paper: dict) -> tuple[str, ...]:
    cells = ["Real images", MISSING]
    for score in scores:
        cells += [f"{protocol.real[score]:.3f}" if score in protocol.real else MISSING, ""]
    known = paper.get("real", {})
    return (*cells, *([show_paper(known, "dino"), show_paper(known, "clip_i")] if paper else []))


def _method_row(row: Row, scores: list[str], paper: dict) -> tuple[str, ...]:
    title = f"{row.title} ({row.lost})" if row.lost else row.title
    cells = [title, show_count(row.cost.parameters)]
    for score in scores:
        found = row.scores.get(score)
        cells += [show_score(found), MISSING if found is None else show_interval(found.subjects)]
    known = paper.get(row.method, {})
    return (*cells, *([show_paper(known, "dino"), show_paper(known, "clip_i")] if paper else []))


def _main_notes(view: BenchmarkView, protocol: ProtocolView) -> list[str]:
    seeds = {score.seeds.count for row in protocol.rows for score in row.scores.values()}
    count = max(seeds, default=0)
    notes = [
        f"{len(view.subjects)} subjects, {count} seeds; mean ± std over seeds, best seed in brackets."
        if count > 1
        else f"{len(view.subjects)} subjects, one seed: no spread over seeds is known.",
        "95% CI: bootstrap over subjects.",
        {
            "fixed_step": "Checkpoint: the last step for every cell.",
            "best_step_per_method": "Checkpoint: for each row the step with its best mean DINO.",
            "best_step_per_prompt": "OPTIMISTIC: for each prompt the step with the best DINO, which picks among noise.",
            "best_held_out": "Checkpoint: for each cell the best by held-out photos, chosen on every fifth prompt and "
            "other seeds; all numbers are of the other prompts.",
        }[view.config.checkpoint],
    ]
    if view.config.references != "trained":
        notes.append("Held-out: against photos of the subject that were never trained on.")
    if "memorised_dino" in view.leading:
        notes.append(f"{protocol.label('memorised_dino')}: {SCORES['memorised_dino'].meaning}")
    if not any("rank_top1" in row.scores for row in protocol.rows):
        notes.append("No ranks: they need a dataset of at least two subjects to rank an image among.")
    if any(row.lost for row in protocol.rows):
        notes.append("Rows with lost cells average over the survivors only.")
    if view.paper:
        notes.append(f"Paper: {view.paper['title']}. {view.paper.get('note', '')}".strip())
    if view.paper and view.is_miniature:
        notes.append("MINIATURE: the paper's numbers are of Stable Diffusion 1.5 and compare with none of ours.")
    if view.is_random:
        notes.append("RANDOM WEIGHTS: a base model or an encoder was untrained; these numbers mean nothing.")
    return notes


def _compared(rows: list[Row]) -> list[tuple[Row, Row]]:
    """Every pair of a small table; in a sweep each method with the first one at the same setting."""
    if len(rows) <= MOST_COMPARED_ROWS:
        return list(itertools.combinations(rows, 2))
    leaders = {str(row.setting): row for row in rows if row.method == rows[0].method}
    return [
        (leaders[str(row.setting)], row) for row in rows if row.method != rows[0].method and str(row.setting) in leaders
    ] or [(rows[0], row) for row in rows[1:]]


def _difference(first: Row, second: Row, score: str) -> Estimate:
    ours, theirs = second.scores[score].by_subject, first.scores[score].by_subject
    return paired_difference(ours, theirs, seed=BOOTSTRAP_SEED)


def _distance_of(view: BenchmarkView) -> str:
    return f"of the layers named …{view.config.projection}" if view.config.projection else "mean of all adapted layers"


def _name(name: str, view: BenchmarkView, protocol: ProtocolView) -> str:
    """The leading protocol's files have plain names."""
    suffix = "" if protocol is view.main else "-" + "".join(c if c.isalnum() else "-" for c in protocol.protocol.name)
    return f"{name}{suffix}"
