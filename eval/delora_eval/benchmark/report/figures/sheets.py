"""Image sheets: the same prompt and seed of every method side by side, and over the steps of training."""

from dataclasses import dataclass, replace
from pathlib import Path

from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.report.numbers.rows import Row
from delora_eval.benchmark.report.numbers.view import BenchmarkView
from delora_eval.pages.thumbnails import Thumbnail, link_thumbnail, make_thumbnails
from delora_eval.scoring.inputs.image_sets import JudgedImage, read_folder_sets, read_shown_sets
from delora_sd.data.subjects import load_subject
from delora_sd.errors import UserError

THUMBNAIL_PX = 224
"""Longest side of an image in a sheet: 10 kB each."""

MOST_EMBEDDED = 700
"""Images of a page that holds them all: 30 subjects and 4 methods. It can be sent to anyone."""

ROOM_BYTES = 1_500_000
"""Of the images inside a page with more; the others are links to their files, or the page would not open."""

_BATCH = 50
"""Thumbnails made before the room is looked at again."""


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


def build_sheets(view: BenchmarkView) -> list[Sheet]:
    """Returns, per subject, the sheet over prompts and, where several steps were generated, the one over steps."""
    rows = list(view.main.rows) if view.main else []
    sheets, first = [], _first_cells(view)
    for subject in view.subjects:
        own = {row.name: first.get((row.name, subject)) for row in rows}
        sheets.append(_prompt_sheet(view, subject, rows, own))
        if any(len(cell.steps) > 1 for cell in own.values() if cell):
            sheets.append(_step_sheet(view, subject, rows, own))
    return [sheet for sheet in sheets if any(tile.file for strip in sheet.strips for tile in strip.tiles)]


def embed_sheets(sheets: list[Sheet], *, beside: Path) -> dict[Path, Thumbnail]:
    """Returns {file: thumbnail} of every image on the sheets, each made once.

    `beside` is the page's folder, from which the images that do not fit into it are linked.
    """
    files = list(dict.fromkeys(file for sheet in sheets for file in sheet.files))
    room = ROOM_BYTES if len(files) > MOST_EMBEDDED else None
    shown: dict[Path, Thumbnail] = {}
    for start in range(0, len(files), _BATCH):
        batch = files[start : start + _BATCH]
        if room is None or sum(len(thumbnail.uri) for thumbnail in shown.values()) < room:
            shown |= zip(batch, make_thumbnails(batch, THUMBNAIL_PX), strict=True)
        else:
            shown |= {file: link_thumbnail(file, beside, like=shown[files[0]]) for file in batch}
    return shown


def _prompt_sheet(view: BenchmarkView, subject: str, rows: list[Row], cells: dict[str, Cell | None]) -> Sheet:
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


def _step_sheet(view: BenchmarkView, subject: str, rows: list[Row], cells: dict[str, Cell | None]) -> Sheet:
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


def _first_cells(view: BenchmarkView) -> dict[tuple[str, str], Cell]:
    """Returns {(row, subject): its cell of the lowest seed}: chosen by rule, never by look."""
    first: dict[tuple[str, str], Cell] = {}
    for cell in sorted(view.cells, key=lambda cell: cell.seed):
        first.setdefault((cell.row, cell.subject), cell)
    return first


def _images(view: BenchmarkView, cell: Cell | None, step: int | None) -> dict[int, JudgedImage]:
    """Returns {prompt number: the image with the lowest seed} of the cell's images of the subject at a step."""
    if cell is None:
        return {}
    if cell.path is not None:
        return _foreign_images(cell)
    run, last = view.folder.run(cell), cell.steps[-1]
    if cell.row not in view.train_of_rows:
        return {}
    identifier = view.train_of_rows[cell.row].data.identifier
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


def _photos(view: BenchmarkView, cells: dict[str, Cell | None]) -> tuple[Path, ...]:
    cell = next((cell for cell in cells.values() if cell and cell.path is None), None)
    if cell is None or cell.row not in view.train_of_rows:
        return ()
    data = view.train_of_rows[cell.row].data
    try:
        return load_subject(data if data.photos else replace(data, subject=cell.subject)).photos
    except UserError:
        return ()
