"""The HTML page of a benchmark: one file with everything in it, to open anywhere and send to anyone.

Of a grid with more images than a page can hold, the others are links into the benchmark's folder, and the page says so.
"""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from delora_eval.benchmark.report.figures.sheets import Sheet, Strip, embed_sheets
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.benchmark.settings import generate_settings
from delora_eval.pages.drawing import Drawing
from delora_eval.pages.render import render_page
from delora_eval.pages.tables import Table
from delora_eval.pages.thumbnails import Thumbnail
from delora_eval.scoring.judges.networks.preprocessing import Preprocessing
from delora_eval.scoring.judges.protocols import View
from delora_eval.scoring.record.score_lines import ScoreLine, read_score_lines
from delora_sd.config.load import to_yaml

OPEN_TABLES = ("results", "differences", "agreement")
"""Shown at the top; the others follow the images."""


@dataclass(frozen=True, kw_only=True)
class SheetView:
    """An image sheet with its images embedded."""

    sheet: Sheet
    photos: tuple[Thumbnail, ...]
    strips: tuple[tuple[Strip, tuple[Thumbnail | None, ...]], ...]
    anchor: str


def render_benchmark(view: BenchmarkView, tables: list[Table], figures: list[Drawing], sheets: list[Sheet]) -> str:
    """Returns the page."""
    thumbnails = embed_sheets(sheets, beside=view.folder.path)
    shown = _with_images(sheets, thumbnails)
    return render_page(
        "benchmark.html.j2",
        assets=("page", "benchmark"),
        view=view,
        states=Counter(view.states.values()),
        facts=_facts(view),
        figures=[(figure, Markup(figure.inline_svg)) for figure in figures],
        leading=[table for table in tables if table.name in OPEN_TABLES],
        following=[table for table in tables if table.name not in OPEN_TABLES],
        sheets=shown,
        num_links=sum(thumbnail.is_link for thumbnail in thumbnails.values()),
        filters=_filters(view, shown),
        protocols=[(item.protocol, _describe_protocol(item.protocol)) for item in view.protocols],
        provenance=_provenance(view),
        settings=to_yaml(view.config),
    )


def _facts(view: BenchmarkView) -> dict[str, str]:
    """The line under the headline."""
    states = Counter(view.states.values())
    bases = sorted({str(facts["base"]["id"]) for facts in view.manifests if "id" in facts.get("base", {})})
    seeds = {cell.seed for cell in view.cells if cell.path is None}
    ended = f"{states['finished']} of {len(view.states)} finished"
    lost = ", ".join(f"{states[name]} {name}" for name in ("diverged", "failed") if states[name])
    return {
        "Base model": ", ".join(bases) or "–",
        "Subjects": str(len(view.subjects)),
        "Seeds": ", ".join(map(str, sorted(seeds))) or "–",
        "Cells": f"{ended}, {lost}" if lost else ended,
        "Protocol": ", ".join(item.protocol.name for item in view.protocols) or "–",
        "Checkpoint": view.config.checkpoint.replace("_", " "),
    }


def _with_images(sheets: list[Sheet], thumbnails: dict[Path, Thumbnail]) -> list[SheetView]:
    return [
        SheetView(
            sheet=sheet,
            photos=tuple(thumbnails[photo] for photo in sheet.photos),
            strips=tuple(
                (strip, tuple(thumbnails[tile.file] if tile.file else None for tile in strip.tiles))
                for strip in sheet.strips
            ),
            anchor=f"sheet-{number}",
        )
        for number, sheet in enumerate(sheets)
    ]


def _filters(view: BenchmarkView, sheets: list[SheetView]) -> dict[str, list[tuple[str, str]]]:
    """Returns {what: [(value, text)]} of the choices a reader has."""
    rows = view.main.rows if view.main else ()
    prompts = {
        number: column
        for item in sheets
        if not item.sheet.over_steps
        for number, column in zip(item.sheet.prompt_numbers, item.sheet.columns, strict=True)
    }
    return {
        "subject": [(subject, subject) for subject in view.subjects],
        "method": [(row.title, row.title) for row in rows],
        "prompt": [(str(number), f"{number}: {text}") for number, text in sorted(prompts.items())],
    }


def _describe_protocol(protocol: Any) -> dict[str, str]:
    """The exact protocol in words and numbers."""
    return {
        "DINO": _describe_encoder(protocol.dino),
        "CLIP": _describe_encoder(protocol.clip),
        "Mean over": "subjects' means" if protocol.pooling == "subjects" else "all pairs of all subjects",
        "Real row": "with self pairs" if protocol.keeps_self_pairs else "different photos only",
        "CLIP-T text": "with the rare token" if protocol.text_has_identifier else "without the rare token",
        "Black images": "left out" if protocol.skips_black else "scored",
        "Source": protocol.source,
    }


def _describe_encoder(view: View) -> str:
    preprocessing: Preprocessing | None = view.preprocessing
    return f"{view.encoder}, {preprocessing or 'as its own configuration says'}"


def _provenance(view: BenchmarkView) -> dict[str, str]:
    """Versions and hashes; a value that differs between cells shows every variant."""
    found: dict[str, set[str]] = {}
    for facts in view.manifests:
        versions = {f"version of {name}": value for name, value in facts.get("versions", {}).items()}
        own = {
            "delora_sd": facts.get("delora_sd"),
            "git commit": facts.get("git"),
            "device": facts.get("device"),
            "base model": facts.get("base", {}).get("fingerprint"),
        }
        for key, value in (own | versions).items():
            if value is not None:
                found.setdefault(key, set()).add(str(value))
    encoders = {
        f"weights of {line.encoder}": line.weights for cell in view.cells[:1] for line in _score_lines(view, cell)
    }
    settings = generate_settings(view.config)
    sampling = {
        "images": f"{settings.images_per_prompt} per prompt, DPM-Solver++ {settings.num_inference_steps} steps, "
        f"guidance {settings.guidance:g}, first seed {settings.seed}"
    }
    return {key: ", ".join(sorted(values)) for key, values in found.items()} | encoders | sampling


def _score_lines(view: BenchmarkView, cell: Any) -> list[ScoreLine]:
    return read_score_lines(view.folder.run(cell).scores)
