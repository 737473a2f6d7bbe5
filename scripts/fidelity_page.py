"""docs/FIDELITY.md from the finished studies of `fidelity_miniature.py`: claims, figures, verdicts by a stated rule."""

import io
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_eval.benchmark.drawing import Drawing
from delora_eval.benchmark.figures import steps_figure, sweep_figure
from delora_eval.benchmark.map_figure import map_figure
from delora_eval.benchmark.methods import FACTOR
from delora_eval.benchmark.pictures import Sheet, build_sheets
from delora_eval.benchmark.rows import BOOTSTRAP_SEED, Row, RowScore
from delora_eval.benchmark.tables import Table, render_markdown
from delora_eval.benchmark.view import ProtocolView, View, row_distances
from delora_eval.statistics import Estimate, paired_difference
from PIL import Image

from delora_sd.data.images import open_photo
from delora_sd.run_folder import read_lines, write_bytes, write_text

SCORES = ("dino", "context_accuracy")
"""Subject and context, always side by side: overfitting raises the first and lowers the second."""

EARLY_STEPS = (1, 2, 5, 20)
TILE_PX, GAP_PX = 64, 3
SHEETS = 3
"""Subjects whose pictures are shown: the first by name, not the best."""


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Generated pictures in rows and columns, as one PNG."""

    name: str
    caption: str
    rows: tuple[tuple[Path | None, ...], ...]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One thing the paper or this project says, and what the miniature answers."""

    number: str
    text: str
    verdict: str
    table: Table
    notes: tuple[str, ...] = ()
    drawings: tuple[Drawing, ...] = ()
    pictures: tuple[Pictures, ...] = ()


def write_page(views: dict[str, View], page: Path, pictures: Path, machine: str) -> None:
    """Writes the page and its pictures; `views` maps a study's name to its finished benchmark."""
    makers: dict[str, tuple[Callable[[View], Claim], ...]] = {
        "search": (search,),
        "rates": (best_settings, learning_rates),
        "long": (prolonged,),
        "norm": (weight_norms,),
        "starts": (starts, mirrored_like_paper),
        "map": (boundary_map,),
    }
    claims = [make(views[name]) for name, makes in makers.items() if name in views for make in makes]
    lines = [*_head(views, claims, machine)]
    for claim in claims:
        lines += _section(claim, pictures, page.parent)
    write_text(page, "\n".join(lines).rstrip() + "\n")


def search(view: View) -> Claim:
    methods = dict.fromkeys(row.method for row in view.main.rows)
    best = [max((row for row in view.main.rows if row.method == method), key=_subject) for method in methods]
    return Claim(
        number="Search",
        text="The setting of every method with the best subject score, on three other subjects, one seed.",
        verdict="; ".join(f"{row.title}: {_subject(row):.3f}" for row in best),
        table=_score_table("Every setting tried", list(view.main.rows), view.main),
        drawings=(map_figure(view, view.main, "delora", SCORES),),
    )


def best_settings(view: View) -> Claim:
    rows = _at_factor(view, 1)
    ours, rivals = rows["delora"], [rows["lora"], rows["dora"]]
    return Claim(
        number="C1",
        text="At its best setting DeLoRA keeps the subject at least as well as LoRA and DoRA (Table 3).",
        verdict="; ".join(_compare(ours, rival) for rival in rivals),
        table=_score_table("Every method at its best rate", list(rows.values()), view.main),
        notes=_rates_note(view),
        pictures=tuple(_over_prompts(view, sheet, (1,)) for sheet in build_sheets(view)[:SHEETS]),
    )


def learning_rates(view: View) -> Claim:
    highest = _at_factor(view, max(row.setting[FACTOR] for row in view.main.rows))
    ours, rivals = highest["delora"], [highest["lora"], highest["dora"]]
    return Claim(
        number="C2",
        text="LoRA and DoRA break at a few times their best learning rate; DeLoRA does not (Fig. 2).",
        verdict=f"At ×{ours.setting[FACTOR]:g}: " + "; ".join(_compare(ours, rival) for rival in rivals),
        table=_score_table("Against the learning rate", list(view.main.rows), view.main),
        drawings=(sweep_figure(view, view.main, SCORES),),
        pictures=(_over_prompts(view, build_sheets(view)[-1], (4, 16)),),
    )


def prolonged(view: View) -> Claim:
    rows = {row.method: row for row in view.main.rows}
    late = max(view.main.steps)
    usual = min(step for step in view.main.steps if step)
    growth = {name: _growth(view, row, usual, late) for name, row in rows.items()}
    verdict = (
        f"From step {usual} to {late} the distance grows "
        + ", ".join(f"{growth[name]:.2f}× ({rows[name].label})" for name in rows)
        + f". At step {late}: "
        + "; ".join(_compare(rows["delora"], rows[name]) for name in ("lora", "dora"))
    )
    return Claim(
        number="C3",
        text="In prolonged training LoRA and DoRA drift away from the pretrained weights and lose their pictures; "
        "DeLoRA stays within its boundary (Figs. 3 and 8).",
        verdict=verdict,
        table=_steps_table(view),
        drawings=(steps_figure(view, view.main, SCORES),),
        pictures=tuple(_over_steps(sheet) for sheet in build_sheets(view) if sheet.over_steps)[:SHEETS],
    )


def weight_norms(view: View) -> Claim:
    scaled = next(row for row in view.main.rows if row.method == "delora")
    plain = [row for row in view.main.rows if row.method != "delora"]
    best = max(plain, key=_subject)
    return Claim(
        number="C4",
        text="Scaling the update by the frozen weight's norms helps (Table 1).",
        verdict=f"Against the best of {len(plain)} boundaries without it, chosen on these very scores: "
        + _compare(scaled, best),
        table=_score_table("With and without weight norms", list(view.main.rows), view.main),
    )


def starts(view: View) -> Claim:
    sizes = {row.method: _early_sizes(view, row) for row in view.main.rows}
    first = {name: values[EARLY_STEPS[0]][0] for name, values in sizes.items()}
    scores = [row.scores["dino"] for row in view.main.rows]
    apart = max(score.subjects.mean for score in scores) - min(score.subjects.mean for score in scores)
    return Claim(
        number="C6",
        text="The start decides how large the very first update is (the paper's frozen copy moves at once, "
        "B = 0 jumps to the boundary, twin terms grow from zero) but not where training ends.",
        verdict="After one step the update is "
        + ", ".join(f"{100 * first[row.method]:.2f}% ({row.label})" for row in view.main.rows)
        + f" of the weight; at the end the subject scores lie {apart:.3f} apart",
        table=_size_table(view, sizes),
    )


def mirrored_like_paper(view: View) -> Claim:
    rows = {row.method: row for row in view.main.rows}
    return Claim(
        number="C7",
        text="The mirrored start, which needs no frozen copy, does as well as the paper's start.",
        verdict=_compare(rows["mirrored"], rows["frozen_copy"]),
        table=_score_table("Three starts", list(view.main.rows), view.main),
    )


def boundary_map(view: View) -> Claim:
    best = max(view.main.rows, key=_subject)
    worst = min(view.main.rows, key=_subject)
    return Claim(
        number="Map",
        text="The boundary, more than the learning rate, decides how strongly DeLoRA acts.",
        verdict=f"Best subject score {_subject(best):.3f} at {best.title}; lowest {_subject(worst):.3f} "
        f"at {worst.title}",
        table=_score_table("Boundary and learning rate", list(view.main.rows), view.main),
        drawings=(map_figure(view, view.main, "delora", SCORES),),
    )


def _head(views: dict[str, View], claims: Sequence[Claim], machine: str) -> list[str]:
    view = next((view for name, view in views.items() if name != "search"), next(iter(views.values())))
    facts = view.manifests[0]
    versions = ", ".join(f"{name} {facts['versions'].get(name)}" for name in ("torch", "diffusers"))
    return [
        "# Fidelity: the paper's claims on the miniature",
        "",
        "**These numbers come from the bundled miniature world and its own judges, mini-DINO and mini-CLIP. They",
        "compare with each other and with nothing else; they are no DINO, no CLIP and no Stable Diffusion.**",
        "",
        f"Every figure is over {len(view.subjects)} subjects the base model has never seen"
        f" ({', '.join(view.subjects)}) and {len({cell.seed for cell in view.cells})} seeds, 25 prompts each;",
        "settings were searched on three other subjects. Intervals are 95% bootstrap intervals over subjects, of means",
        "over seeds; a difference is called one only when its paired interval leaves out 0, uncorrected for the number",
        "of comparisons. *Subject* is mini-DINO (1: the same picture, about 0: a stranger), *context* the share of",
        "pictures whose own prompt mini-CLIP picks out of the list.",
        f"Real photos of these subjects among themselves: {view.main.real['dino']:.3f}.",
        "",
        f"Made by `python scripts/fidelity_miniature.py` ({machine}; {versions}).",
        "",
        "| | Claim | On the miniature |",
        "| :-- | :-- | :-- |",
        *(f"| {claim.number} | {claim.text} | {claim.verdict} |" for claim in claims),
        "",
    ]


def _section(claim: Claim, pictures: Path, folder: Path) -> list[str]:
    lines = [f"## {claim.number}: {claim.text}", "", f"**{claim.verdict}.**", ""]
    for drawing in claim.drawings:
        file = pictures / f"fidelity_{claim.number.lower()}_{drawing.name}.png"
        write_bytes(file, drawing.png)
        lines += [f"![{drawing.title}]({file.relative_to(folder)})", "", f"*{drawing.caption}*", ""]
    for shown in claim.pictures:
        file = pictures / f"fidelity_{shown.name}.png"
        write_bytes(file, _montage(shown))
        lines += [f"![{shown.caption}]({file.relative_to(folder)})", "", f"*{shown.caption}*", ""]
    lines += [*claim.notes, *([""] if claim.notes else []), render_markdown(claim.table)]
    return lines


def _compare(ours: Row, theirs: Row) -> str:
    """`DeLoRA − LoRA: subject +0.012 [-0.010, 0.034] (no difference shown), context ...`."""
    parts = []
    for score, word in zip(SCORES, ("subject", "context"), strict=True):
        gap = paired_difference(ours.scores[score].by_subject, theirs.scores[score].by_subject, seed=BOOTSTRAP_SEED)
        parts.append(f"{word} {gap.mean:+.3f} [{gap.low:+.3f}, {gap.high:+.3f}], {_verdict(gap)}")
    return f"{ours.title} against {theirs.title}: " + ", ".join(parts)


def _verdict(gap: Estimate) -> str:
    if not gap.excludes_zero:
        return "no difference shown"
    return "**higher**" if gap.mean > 0 else "**lower**"


def _at_factor(view: View, factor: float) -> dict[str, Row]:
    return {row.method: row for row in view.main.rows if row.setting[FACTOR] == factor}


def _rates_note(view: View) -> tuple[str, ...]:
    found = {cell.method: cell.train for cell in view.cells if cell.setting.get(FACTOR) == 1 and cell.train}
    return tuple(f"- {name}: lr {train.optimizer.lr:g}" for name, train in found.items())


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
    return [f"{score.subjects.mean:.3f}", f"[{low:.3f}, {high:.3f}]", f"{score.seeds.std:.3f}"]


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


def _over_steps(sheet: Sheet) -> Pictures:
    names = ", ".join(strip.title for strip in sheet.strips)
    return Pictures(
        name=f"steps_{sheet.subject}",
        caption=f"{sheet.subject}, {sheet.strips[0].tiles[-1].prompt}. Rows: {names}. "
        f"Columns: {', '.join(sheet.columns)}. Lowest seed, not chosen.",
        rows=tuple(tuple(tile.file for tile in strip.tiles) for strip in sheet.strips),
    )


def _over_prompts(view: View, sheet: Sheet, factors: tuple[float, ...]) -> Pictures:
    """The subject's photos, then a row per method and factor with the same prompts and seed."""
    shown = {row.title for row in view.main.rows if row.setting[FACTOR] in factors}
    strips = [strip for strip in sheet.strips if strip.title in shown]
    return Pictures(
        name=f"prompts_{sheet.subject}_x{'_'.join(f'{factor:g}' for factor in factors)}",
        caption=f"{sheet.subject}. First row: its photos. Then {', '.join(strip.title for strip in strips)}: "
        f"{'; '.join(sheet.columns)}. Lowest seed, not chosen.",
        rows=(sheet.photos, *(tuple(tile.file for tile in strip.tiles) for strip in strips)),
    )


def _montage(pictures: Pictures) -> bytes:
    pitch = TILE_PX + GAP_PX
    columns = max(len(row) for row in pictures.rows)
    canvas = Image.new("RGB", (columns * pitch - GAP_PX, len(pictures.rows) * pitch - GAP_PX), "white")
    for y, row in enumerate(pictures.rows):
        for x, file in enumerate(row):
            if file is not None:
                tile = open_photo(file).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
                canvas.paste(tile, (x * pitch, y * pitch))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()
