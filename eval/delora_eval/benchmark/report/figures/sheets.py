"""Image sheets: the same prompt and seed of every method side by side, and over the steps of training."""

from dataclasses import dataclass
from pathlib import Path

from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.report.numbers.rows import Row
from delora_eval.benchmark.report.numbers.view import View
from delora_eval.pages.thumbnails import Thumbnail, make_thumbnails
from delora_eval.scoring.inputs.image_sets import JudgedImage, read_folder_sets, read_shown_sets
from delora_sd.config.deciding import read_run_settings
from delora_sd.data.subjects import load_subject
from delora_sd.errors import UserError

THUMBNAIL_PX = 224
"""Longest side of an image in a sheet: 30 subjects then make a page of about 20 MB."""


@dataclass(frozen=True, kw_only=True)
class Tile:
    """One image of a sheet; `file` is None where there is none."""

    file: Path | None
    prompt: str
    seed: int = 0


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row of a sheet: a method and its images, in the order of the sheet's columns."""

    method: str
    title: str
    tiles: tuple[Tile, ...]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    """Images of one subject: columns are prompts, or steps of one prompt."""

    subject: str
    photos: tuple[Path, ...]
    columns: tuple[str, ...]
    prompt_numbers: tuple[int, ...]
    """Per column."""
    strips: tuple[Strip, ...]
    over_steps: bool = False

    @property
    def files(self) -> list[Path]:
        return [*self.photos, *(tile.file for strip in self.strips for tile in strip.tiles if tile.file)]


def build_sheets(view: View) -> list[Sheet]:
    """Returns, per subject, the sheet over prompts and, where several steps were generated, the one over steps."""
    rows = list(view.main.rows) if view.main else []
    sheets = []
    for subject in view.subjects:
        own = {row.name: _first_cell(view, row, subject) for row in rows}
        sheets.append(_prompt_sheet(view, subject, rows, own))
        if any(len(cell.steps) > 1 for cell in own.values() if cell):
            sheets.append(_step_sheet(view, subject, rows, own))
    return [sheet for sheet in sheets if any(tile.file for strip in sheet.strips for tile in strip.tiles)]


def embed_sheets(sheets: list[Sheet]) -> dict[Path, Thumbnail]:
    """Returns {file: thumbnail} of every image on the sheets, each made once."""
    files = list(dict.fromkeys(file for sheet in sheets for file in sheet.files))
    return dict(zip(files, make_thumbnails(files, THUMBNAIL_PX), strict=True))


def _prompt_sheet(view: View, subject: str, rows: list[Row], cells: dict[str, Cell | None]) -> Sheet:
    numbers = view.config.sheet_prompts
    images = {row.name: _images(view, cells[row.name], row.step) for row in rows}
    known = {number: _title(image) for listed in images.values() for number, image in listed.items()}
    wanted = [number for number in numbers if number in known]
    shown = sorted((wanted + sorted(known.keys() - set(wanted)))[: len(numbers)])
    return Sheet(
        subject=subject,
        photos=_photos(view, cells),
        columns=tuple(known[number] for number in shown),
        prompt_numbers=tuple(shown),
        strips=tuple(
            Strip(
                method=row.method,
                title=row.title,
                tiles=tuple(_tile(images[row.name].get(number), known[number]) for number in shown),
            )
            for row in rows
        ),
    )


def _step_sheet(view: View, subject: str, rows: list[Row], cells: dict[str, Cell | None]) -> Sheet:
    steps = sorted({step for cell in cells.values() if cell for step in cell.steps})
    number = next(iter(view.config.sheet_prompts), 0)
    strips = []
    for row in rows:
        listed = [_images(view, cells[row.name], step) for step in steps]
        number = number if any(number in found for found in listed) else min((n for f in listed for n in f), default=0)
        tiles = tuple(_tile(found.get(number), f"step {step}") for step, found in zip(steps, listed, strict=True))
        strips.append(Strip(method=row.method, title=row.title, tiles=tiles))
    return Sheet(
        subject=subject,
        photos=(),
        columns=tuple(f"step {step}" for step in steps),
        prompt_numbers=(number,) * len(steps),
        strips=tuple(strips),
        over_steps=True,
    )


def _first_cell(view: View, row: Row, subject: str) -> Cell | None:
    """The subject's cell of the lowest seed: chosen by rule, never by look."""
    own = [cell for cell in view.cells if cell.row == row.name and cell.subject == subject]
    return min(own, key=lambda cell: cell.seed, default=None)


def _images(view: View, cell: Cell | None, step: int | None) -> dict[int, JudgedImage]:
    """Returns {prompt number: the image with the lowest seed} of the cell's images of the subject at a step."""
    if cell is None:
        return {}
    if cell.path is not None:
        return _foreign_images(cell)
    run, last = view.folder.run(cell), cell.steps[-1]
    if not run.config.exists():
        return {}
    identifier = read_run_settings(run.config).data.identifier
    found: dict[int, JudgedImage] = {}
    for images in read_shown_sets(run, subject=cell.subject, identifier=identifier):
        is_of_subject = any(image.names_subject for image in images.images)
        if is_of_subject and images.step_of(last) == (last if step is None else step):
            for image in sorted(images.images, key=lambda image: image.seed):
                found.setdefault(image.prompt_index, image)
    return found


def _foreign_images(cell: Cell) -> dict[int, JudgedImage]:
    try:
        sets = read_folder_sets(Path(cell.path), [cell.subject], identifier="", prompts=cell.prompts)
    except UserError:
        return {}
    images = [image for one in sets for image in one.images]
    return {
        image.prompt_index if cell.prompts else number: image for number, image in reversed(list(enumerate(images)))
    }


def _title(image: JudgedImage) -> str:
    return image.prompt or image.file.stem


def _tile(image: JudgedImage | None, prompt: str) -> Tile:
    if image is None:
        return Tile(file=None, prompt=prompt)
    return Tile(file=image.file, prompt=_title(image), seed=image.seed)


def _photos(view: View, cells: dict[str, Cell | None]) -> tuple[Path, ...]:
    run = next((view.folder.run(cell) for cell in cells.values() if cell and cell.path is None), None)
    if run is None or not run.config.exists():
        return ()
    try:
        return load_subject(read_run_settings(run.config).data).photos
    except UserError:
        return ()
