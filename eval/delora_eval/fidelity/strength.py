"""Strength: C9, the adapters of the test drawn again from weaker to stronger than they were trained."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from delora_eval.benchmark.report.numbers.rows import BOOTSTRAP_SEED, Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.benchmark.settings import generate_settings
from delora_eval.fidelity.claim import Claim
from delora_eval.fidelity.comparisons import SCORES, above, compare_subjects
from delora_eval.pages.drawing import Drawing, draw, look
from delora_eval.pages.tables import Table
from delora_eval.scoring.measures.statistics import Estimate, bootstrap_mean
from delora_eval.scoring.record.score_lines import ScoreLine
from delora_eval.settings import ScoreConfig
from delora_sd.config.deciding import read_run_settings
from delora_sd.data.held_out import load_run_subject
from delora_sd.files.run_folder import read_json, write_json

STRENGTHS = (0.5, 1.0, 1.5, 2.0)
METHODS = ("delora", "lora")

Curve = dict[float, dict[str, dict[str, float]]]
"""{strength: {score: {subject: value}}}."""


def draw_strengths(view: BenchmarkView, folder: Path) -> None:
    """Draws and scores the first seed of DeLoRA's and LoRA's cells at every strength into `folder`; goes on when called
    again."""
    from delora_eval.scoring.score import score
    from delora_sd.generation.generate import generate

    settings = generate_settings(view.config)
    for cell in _cells(view):
        run = view.folder.run(cell)
        subject = load_run_subject(read_run_settings(run.config))
        for strength in STRENGTHS:
            place = folder / f"{cell.id}-x{strength:g}"
            if (place / "totals.json").exists():
                continue
            images = generate(replace(settings, run=str(run.path), output_dir=str(place), strength=strength))
            asked = ScoreConfig(
                reference=str(subject.photos[0].parent),
                generated=str(images),
                class_word=subject.class_word,
                identifier=read_run_settings(run.config).data.identifier,
                protocol=view.config.protocol,
                output=str(place / "scores.jsonl"),
            )
            lines = [ScoreLine.of(record) for record in score(asked)]
            totals = {line.score: line.value for line in lines if line.prompt is None and line.score in SCORES}
            write_json(place / "totals.json", totals)


def strength_robustness(view: BenchmarkView, folder: Path) -> Claim | None:
    """C9: whether DeLoRA bears being scaled past what it was trained at better than LoRA; None before it is drawn."""
    rows = {row.method: row for row in view.main.rows if row.method in METHODS}
    curves = {method: _read_curve(view, method, folder) for method in rows}
    if not all(len(curve) == len(STRENGTHS) for curve in curves.values()):
        return None
    ours, theirs = curves["delora"], curves["lora"]
    gaps = [
        compare_subjects(f"DeLoRA at strength {value:g}", ours[value], "LoRA", theirs[value])
        for value in STRENGTHS
        if value > 1
    ]
    return Claim(
        number="C9",
        text="Turned up past the strength it was trained at, DeLoRA keeps subject and context better than LoRA.",
        verdict=above(gaps),
        findings=tuple(gap.text for gap in gaps),
        table=_strength_table(view, rows, curves),
        drawings=(_strength_figure(view, rows, curves),),
    )


def _cells(view: BenchmarkView):
    seed = min(cell.seed for cell in view.cells)
    return [cell for cell in view.cells if cell.method in METHODS and cell.seed == seed]


def _read_curve(view: BenchmarkView, method: str, folder: Path) -> Curve:
    curve: Curve = {}
    for strength in STRENGTHS:
        cells = [cell for cell in _cells(view) if cell.method == method]
        files = {cell.subject: folder / f"{cell.id}-x{strength:g}" / "totals.json" for cell in cells}
        if all(file.exists() for file in files.values()):
            totals = {subject: read_json(file) for subject, file in files.items()}
            curve[strength] = {score: {name: found[score] for name, found in totals.items()} for score in SCORES}
    return curve


def _strength_table(view: BenchmarkView, rows: dict[str, Row], curves: dict[str, Curve]) -> Table:
    columns = ["Method", "Strength"]
    for name in SCORES:
        columns += [view.main.label(name), "95% CI"]
    lines = []
    for method, curve in curves.items():
        for strength, scores in curve.items():
            line = [rows[method].title, f"{strength:g}"]
            for name in SCORES:
                value = _estimate(scores[name])
                line += [f"{value.mean:.3f}", f"[{value.low:.3f}, {value.high:.3f}]"]
            lines.append(tuple(line))
    return Table(name="strength", title="Over strength", columns=tuple(columns), rows=tuple(lines), text_columns=2)


def _strength_figure(view: BenchmarkView, rows: dict[str, Row], curves: dict[str, Curve]) -> Drawing:
    def paint(figure: Any, axes: list[Any]) -> None:
        for axis, name in zip(axes, SCORES, strict=True):
            for index, (method, curve) in enumerate(curves.items()):
                values = {strength: _estimate(scores[name]) for strength, scores in curve.items()}
                style = look(index)
                axis.plot(list(values), [value.mean for value in values.values()], label=rows[method].label, **style)
                low, high = ([getattr(value, end) for value in values.values()] for end in ("low", "high"))
                axis.fill_between(list(values), low, high, color=style["color"], alpha=0.15, linewidth=0)
            axis.set_xlabel("strength")
            axis.set_title(view.main.label(name), loc="left")
        axes[0].legend()

    return draw(
        "strength", "Scores over strength", "Bands: 95% bootstrap interval over subjects. One seed.", paint, panels=2
    )


def _estimate(by_subject: dict[str, float]) -> Estimate:
    return bootstrap_mean(by_subject, seed=BOOTSTRAP_SEED)
