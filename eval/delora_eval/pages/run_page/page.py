"""`delora-sd report RUN`: one HTML file with everything in it, to open anywhere and send to anyone."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_eval.pages.render import render_page
from delora_eval.pages.run_page.data import RunPage, read_run_page
from delora_eval.pages.run_page.figures import draw_run
from delora_eval.scoring.measures.metrics import SCORES
from delora_eval.scoring.record.score_lines import ScoreLine
from delora_eval.scoring.score import REFERENCE_SET
from delora_eval.settings import ReportConfig
from delora_sd.files.run_folder import RunFolder, write_text

METHOD_NAMES = {
    "delora": "DeLoRA",
    "lora": "LoRA",
    "dora": "DoRA",
    "oft": "OFT",
    "ether": "ETHER",
    "ether_plus": "ETHER+",
    "full": "full fine-tuning",
}
"""How the field writes them."""

SUBJECT_SCORES = (
    "dino", "dino_held_out", "memorised_dino", "clip_i", "clip_i_held_out", "memorised_clip_i", "rank_top1",
    "class_rank_top1", "nearest_dino", "copy_rate", "copy_risk",
)  # fmt: skip
PROMPT_SCORES = ("clip_t", "context_accuracy", "class_accuracy", "diversity_dino", "diversity_lpips")
KEPT_SCORES = ("drift_dino", "drift_clip_i", "pres")
NUM_HERO_IMAGES = 6


@dataclass(frozen=True, kw_only=True)
class Mark:
    """A named place on a score's track, 0 to 1."""

    place: float
    label: str
    look: str


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """A panel of scores that belong together: one headline, the rest below."""

    title: str
    headline: ScoreLine
    """The line of scores.jsonl."""
    rest: tuple[ScoreLine, ...]
    fill: float
    marks: tuple[Mark, ...]


def write_report(config: ReportConfig) -> None:
    """Writes the page of a run and says where it is."""
    run = RunFolder(Path(config.run).expanduser())
    output = Path(config.output).expanduser() if config.output else run.report
    text = render_run(run, images_per_prompt=config.images_per_prompt, thumbnail_px=config.thumbnail_px)
    write_text(output, text)
    print(f"report: {output}")


def render_run(run: RunFolder, *, images_per_prompt: int, thumbnail_px: int) -> str:
    """Returns the page of a run, self-contained."""
    page = read_run_page(run, images_per_prompt=images_per_prompt, thumbnail_px=thumbnail_px)
    return render_page(
        "run.html.j2",
        page=page,
        method=method_name(page),
        kinds=SCORES,
        verdicts=_verdicts(page),
        hero=_hero(page),
        figures=draw_run(page),
        totals=_totals_table(page),
        meters=(("dino", "main", 1.0), ("clip_t", "series-1", _full_scale("clip_t", page))),
    )


def method_name(page: RunPage) -> str:
    method = page.config.adapter.method
    return METHOD_NAMES.get(method, method)


def _verdicts(page: RunPage) -> list[Verdict]:
    """Subject fidelity is never shown without prompt fidelity beside it."""
    if page.main is None:
        return []
    drifted = next((view for view in page.sets if "drift_dino" in view.totals), None)
    plain = next((view for view in page.sets if "pres" in view.totals and not view.is_base), None)
    kept = (drifted or plain).totals if drifted or plain else {}
    panels = [
        ("Is it the subject?", page.main.totals, SUBJECT_SCORES),
        ("Is it what was asked for?", page.main.totals, PROMPT_SCORES),
        ("What did the model forget?", kept, KEPT_SCORES),
    ]
    return [
        _verdict(page, title, totals, [name for name in names if name in totals])
        for title, totals, names in panels
        if any(name in totals for name in names)
    ]


def _verdict(page: RunPage, title: str, totals: dict[str, ScoreLine], names: list[str]) -> Verdict:
    first, *others = names
    full = _full_scale(first, page)
    return Verdict(
        title=title,
        headline=totals[first],
        rest=tuple(totals[name] for name in others),
        fill=_clamp(totals[first].value, full),
        marks=tuple(
            Mark(place=_clamp(mark.place, full), label=mark.label, look=mark.look) for mark in _marks(page, first)
        ),
    )


def _marks(page: RunPage, score: str) -> list[Mark]:
    """The model before training and the real photos, where they were scored."""
    marks = []
    base = next((view for view in page.sets if view.is_base and view.names_subject and score in view.totals), None)
    if base is not None:
        marks.append(Mark(place=base.totals[score].value, label="before training", look="base"))
    ceiling = page.ceiling(score)
    if ceiling is not None:
        marks.append(Mark(place=ceiling, label=f"real photos {SCORES[score].show(ceiling)}", look="ceiling"))
    return marks


def _full_scale(score: str, page: RunPage) -> float:
    """CLIP's image-text cosines live between about 0.1 and 0.4; the miniature's reach further."""
    return 0.4 if score == "clip_t" and not page.is_miniature else 1.0


def _clamp(value: float, full: float) -> float:
    return min(1.0, max(0.0, value / full))


def _hero(page: RunPage) -> list[tuple[Any, str]]:
    """Returns (thumbnail, caption) of images spread evenly over the prompts, the first of each."""
    if page.main is None:
        return []
    rows = [row for row in page.main.rows if row.images]
    count = min(NUM_HERO_IMAGES, len(rows))
    chosen = [rows[round(index * (len(rows) - 1) / max(1, count - 1))] for index in range(count)]
    return [(row.images[0].thumbnail, row.prompt) for row in chosen]


def _totals_table(page: RunPage) -> list[tuple[str, str, list[ScoreLine]]]:
    """Returns (title, name, totals) of every image set and of the photos, the main set first."""
    titles = {view.name: view.title for view in page.sets}
    titles[REFERENCE_SET] = "The photos against each other: the ceiling"
    groups = {name: [] for name in titles}
    for line in page.lines:
        if line.prompt is None:
            groups.setdefault(line.set, []).append(line)
    return [(titles.get(name, name), name, lines) for name, lines in groups.items() if lines]
