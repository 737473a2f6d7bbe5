"""docs/FIDELITY.md and its images, from the claims and their answers."""

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.fidelity.claim import Claim, Images
from delora_eval.pages.tables import render_markdown
from delora_sd.data.photos import open_photo
from delora_sd.files.run_folder import write_bytes, write_text

TILE_PX, GAP_PX = 64, 3


Answer = tuple[BenchmarkView, Claim]
"""A claim and the benchmark it was asked of."""


def write_page(answers: Sequence[Answer], page: Path, images: Path, *, machine: str, missing: Sequence[str]) -> None:
    """Writes the page and its images, claims in the order of their numbers; `missing` are studies without an end."""
    ordered = sorted(answers, key=lambda answer: _number(answer[1]))
    lines = _head(ordered, machine, missing)
    for view, claim in ordered:
        lines += _section(view, claim, images, page.parent)
    write_text(page, "\n".join(lines).rstrip() + "\n")


def _number(claim: Claim) -> int:
    """The search, which is no claim, comes first."""
    return int(claim.number[1:]) if claim.number[1:].isdigit() else 0


def _head(answers: Sequence[Answer], machine: str, missing: Sequence[str]) -> list[str]:
    view = answers[-1][0]
    facts = view.manifests[0]
    versions = ", ".join(f"{name} {facts['versions'].get(name)}" for name in ("torch", "diffusers"))
    return [
        "# Fidelity: the paper's claims on the miniature",
        "",
        "**These numbers come from the bundled miniature world and its own judges, mini-DINO and mini-CLIP. They",
        "compare with each other and with nothing else; they are no DINO, no CLIP and no Stable Diffusion.**",
        "",
        "Settings were searched on subjects that no other study looks at, the same number for every method. Every",
        "section says its subjects and seeds; the base model has seen none of them. Intervals are 95% bootstrap",
        "intervals over subjects, of means over seeds; a difference is called one only when its paired interval leaves",
        "out 0, uncorrected for the number of comparisons. *Subject* is mini-DINO (1: the same image, about 0: a",
        "stranger), *context* the share of images whose own prompt mini-CLIP picks out of the list.",
        "",
        f"Made by `python -m delora_eval.fidelity` ({machine}; {versions}).",
        "",
        "| | Claim | On the miniature |",
        "| :-- | :-- | :-- |",
        *(f"| {claim.number} | {claim.text} | {claim.verdict} |" for _, claim in answers),
        "",
        *([f"Not run to the end on these weights: {', '.join(missing)}.", ""] if missing else []),
    ]


def _section(view: BenchmarkView, claim: Claim, images: Path, folder: Path) -> list[str]:
    lines = [f"## {claim.number}: {claim.text}", "", f"**{claim.verdict}.**", "", _asked_of(view), ""]
    lines += [*(f"- {finding}" for finding in claim.findings), *([""] if claim.findings else [])]
    for drawing in claim.drawings:
        file = images / f"fidelity_{claim.number.lower()}_{drawing.name}.png"
        write_bytes(file, drawing.png)
        lines += [f"![{drawing.title}]({file.relative_to(folder)})", "", f"*{drawing.caption}*", ""]
    for shown in claim.images:
        file = images / f"fidelity_{shown.name}.png"
        write_bytes(file, _montage(shown))
        lines += [f"![{shown.caption.partition('.')[0]}]({file.relative_to(folder)})", "", f"*{shown.caption}*", ""]
    return [*lines, render_markdown(claim.table)]


def _asked_of(view: BenchmarkView) -> str:
    seeds = len({cell.seed for cell in view.cells})
    return (
        f"{len(view.subjects)} subjects ({', '.join(view.subjects)}), {seeds} {'seed' if seeds == 1 else 'seeds'}; "
        f"their real photos among themselves {view.main.real['dino']:.3f}."
    )


def _montage(images: Images) -> bytes:
    pitch = TILE_PX + GAP_PX
    columns = max(len(row) for row in images.rows)
    canvas = Image.new("RGB", (columns * pitch - GAP_PX, len(images.rows) * pitch - GAP_PX), "white")
    for y, row in enumerate(images.rows):
        for x, file in enumerate(row):
            if file is not None:
                tile = open_photo(file).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
                canvas.paste(tile, (x * pitch, y * pitch))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG")
    return buffer.getvalue()
