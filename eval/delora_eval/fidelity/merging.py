"""C8: how much of two subjects is left when their adapters are added up, from a benchmark and its pairs."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_eval.benchmark.report.numbers.rows import BOOTSTRAP_SEED, Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.fidelity.claim import Claim, Images
from delora_eval.fidelity.comparisons import SCORES, above, compare_subjects
from delora_eval.fidelity.pairs import Half, halves
from delora_eval.pages.tables import Table
from delora_eval.scoring.measures.statistics import bootstrap_mean
from delora_eval.scoring.record.score_lines import read_score_lines
from delora_sd.generation.requests import LISTING, read_listing

SHOWN_PROMPTS = (0, 1, 4)


@dataclass(frozen=True, kw_only=True)
class Kept:
    """One score of a row's pairs, {pair: mean over both subjects and the seeds}."""

    alone: dict[str, float]
    summed: dict[str, float]

    @property
    def share(self) -> dict[str, float]:
        """What of the score alone is left with both adapters, per pair."""
        return {pair: self.summed[pair] / max(alone, 1e-9) for pair, alone in self.alone.items()}


def merging(view: BenchmarkView) -> Claim | None:
    """C8: the share of each pair's scores that is left when both adapters are added up; None before it is drawn."""
    if not all(half.scores.exists() for half in _halves(view)):
        return None
    rows = {row.method: row for row in view.main.rows}
    kept = {name: _kept(view, row) for name, row in rows.items()}
    ours = {score: values.share for score, values in kept["delora"].items()}
    gaps = [
        compare_subjects(
            rows["delora"].title, ours, row.title, {score: values.share for score, values in kept[name].items()}
        )
        for name, row in rows.items()
        if name != "delora"
    ]
    pairs = len(ours[SCORES[0]])
    return Claim(
        number="C8",
        text="Bounded updates add up well: with two subjects' adapters summed, DeLoRA keeps more of both.",
        verdict=above(gaps),
        findings=(
            *(gap.text for gap in gaps),
            f"differences of the share kept; intervals over {pairs} pairs, each a mean of both subjects over the seeds",
        ),
        table=_table(view, rows, kept),
        images=tuple(_images(view, rows)),
    )


def _halves(view: BenchmarkView) -> list[Half]:
    finished = [cell for cell in view.cells if view.states[cell.id] == "finished"]
    return halves(view.folder, finished)


def _kept(view: BenchmarkView, row: Row) -> dict[str, Kept]:
    """Returns {score: what is kept}; a pair counts when both of its subjects were scored, alone and summed."""
    alone = {result.cell.id: result.totals for result in view.main.selected if result.cell.row == row.name}
    pairs: dict[str, list[tuple[dict[str, float], dict[str, float]]]] = {}
    for half in _halves(view):
        if half.own.row == row.name and half.own.id in alone:
            before = {score: alone[half.own.id][score].value for score in SCORES}
            pairs.setdefault(half.name, []).append((before, _totals(half.scores, view.main.protocol.name)))
    return {
        score: Kept(
            alone={pair: _mean([before[score] for before, _ in values]) for pair, values in pairs.items()},
            summed={pair: _mean([after[score] for _, after in values]) for pair, values in pairs.items()},
        )
        for score in SCORES
    }


def _totals(file: Path, protocol: str) -> dict[str, float]:
    lines = [line for line in read_score_lines(file) if line.protocol == protocol and line.prompt is None]
    return {line.score: line.value for line in lines if line.value is not None}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _table(view: BenchmarkView, rows: dict[str, Row], kept: dict[str, dict[str, Kept]]) -> Table:
    columns, lines = ["Method"], []
    for score in SCORES:
        columns += [f"{view.main.label(score)} alone", "summed", "kept", "95% CI"]
    for name, row in rows.items():
        line = [row.title]
        for score in SCORES:
            values = kept[name][score]
            share = bootstrap_mean(values.share, seed=BOOTSTRAP_SEED)
            means = [_mean(list(each.values())) for each in (values.alone, values.summed)]
            line += [*(f"{mean:.3f}" for mean in means), f"{share.mean:.2f}", f"[{share.low:.2f}, {share.high:.2f}]"]
        lines.append((*line, row.lost or "–"))
    return Table(name="pairs", title="Alone, and with both adapters", columns=(*columns, "Lost"), rows=tuple(lines))


def _images(view: BenchmarkView, rows: dict[str, Row]) -> list[Images]:
    """Two rows of images per method, one for each subject of the first pair: its prompts alone, then summed."""
    everything = _halves(view)
    first = [half for half in everything if half.name == everything[0].name and half.own.seed == everything[0].own.seed]
    shown = [half for row in rows.values() for half in first if half.own.row == row.name]
    lines = [(*_drawn(view.folder.run(half.own).images), *_drawn(half.folder / "images")) for half in shown]
    names = ", ".join(f"{rows[half.own.method].label} {half.own.subject}" for half in shown)
    return [
        Images(
            name="pairs",
            caption=f"{everything[0].name}. Rows: {names}. Columns: the same prompts with the subject's own adapter, "
            "then with both added up. Lowest seed, not chosen.",
            rows=tuple(lines),
        )
    ]


def _drawn(images: Path) -> list[Path | None]:
    """Returns the first image of each shown prompt, of the last set by name that has it."""
    found: dict[int, Path] = {}
    for listing in sorted(images.glob(f"[!.]*/{LISTING}")):
        for record in read_listing(listing):
            found.setdefault(record["prompt_index"], listing.parent / record["file"])
    return [found.get(prompt) for prompt in SHOWN_PROMPTS]
