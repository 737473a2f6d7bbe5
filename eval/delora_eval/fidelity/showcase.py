"""The README's first picture: photos of a few subjects, and the same subjects in new contexts; chosen by a rule."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

from PIL import Image

from delora_eval.benchmark.report.figures.sheets import Sheet, build_sheets
from delora_eval.benchmark.report.numbers.rows import Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_sd.data.photos import open_photo

NUM_PHOTOS = 3
NUM_SUBJECTS = 3
TILE_PX, GAP_PX, MIDDLE_PX = 96, 4, 24


def showcase_sheets(view: BenchmarkView, row: Row) -> list[Sheet]:
    """Returns the sheets of the subjects whose scores are nearest the row's median: neither the best nor the worst."""
    by_score = sorted(row.scores["dino"].by_subject, key=row.scores["dino"].by_subject.get)
    first = (len(by_score) - NUM_SUBJECTS) // 2
    middle = by_score[max(0, first) : max(0, first) + NUM_SUBJECTS]
    sheets = {sheet.subject: sheet for sheet in build_sheets(view) if not sheet.over_steps}
    return [sheets[name] for name in sorted(middle) if name in sheets]


def draw_showcase(sheets: Sequence[Sheet], row: Row) -> bytes:
    """Returns a PNG: a line per subject, its photos on the left, the row's images on the right."""
    lines = [(sheet.photos[:NUM_PHOTOS], _images(sheet, row)) for sheet in sheets]
    pitch = TILE_PX + GAP_PX
    columns = NUM_PHOTOS + max(len(images) for _, images in lines)
    canvas = Image.new("RGB", (columns * pitch - GAP_PX + MIDDLE_PX, len(lines) * pitch - GAP_PX), "white")
    for y, (photos, images) in enumerate(lines):
        for x, file in enumerate((*photos, *images)):
            if file is not None:
                tile = open_photo(file).resize((TILE_PX, TILE_PX), Image.Resampling.LANCZOS)
                canvas.paste(tile, (x * pitch + (MIDDLE_PX if x >= NUM_PHOTOS else 0), y * pitch))
    buffer = BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _images(sheet: Sheet, row: Row) -> list[Path | None]:
    return [tile.file for strip in sheet.strips if strip.title == row.title for tile in strip.tiles]
