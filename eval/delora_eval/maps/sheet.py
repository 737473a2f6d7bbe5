"""The picture sheet, as the paper's Fig. 7: a column per map, rows for the map, its photo and every method."""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from delora_eval.pages.thumbnails import Thumbnail, to_thumbnail
from delora_sd.data.photos import open_photo
from delora_sd.generation.requests import LISTING, read_listing
from delora_sd.maps.dataset import MapPair, MapSet
from delora_sd.maps.palette import Palette, read_labels

THUMBNAIL_PX = 224
TILE_PX, GAP_PX = 128, 4
"""Of the sheet's PNG."""


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row of the sheet."""

    label: str
    images: tuple[Image.Image, ...]

    @property
    def thumbnails(self) -> list[Thumbnail]:
        return [to_thumbnail(image.copy(), THUMBNAIL_PX) for image in self.images]


@dataclass(frozen=True, kw_only=True)
class Sheet:
    captions: tuple[str, ...]
    """Of each column."""
    strips: tuple[Strip, ...]


def draw_sheet(map_set: MapSet, sets: Sequence[tuple[str, Path]], *, count: int) -> Sheet:
    """Returns the sheet of the first maps by name; `sets` are (label, folder of an image set)."""
    pairs = map_set.pairs[:count]
    images = [open_photo(pair.photo) for pair in pairs]
    strips = [
        Strip(label="Map", images=tuple(colour_map(pair, map_set.palette) for pair in pairs)),
        Strip(label="Photo", images=tuple(images)),
    ]
    for label, folder in sets:
        files = {Path(record["map"]).stem: folder / record["file"] for record in read_listing(folder / LISTING)}
        strips.append(Strip(label=label, images=tuple(open_photo(files[pair.name]) for pair in pairs)))
    return Sheet(captions=tuple(pair.caption for pair in pairs), strips=tuple(strips))


def colour_map(pair: MapPair, palette: Palette) -> Image.Image:
    """Returns the map in the palette's colours, whatever its file's encoding."""
    return Image.fromarray(palette.colours[np.asarray(read_labels(pair.map, palette))])


def sheet_png(sheet: Sheet) -> bytes:
    """Returns the sheet as one picture, without words."""
    step = TILE_PX + GAP_PX
    page = Image.new("RGB", (len(sheet.captions) * step - GAP_PX, len(sheet.strips) * step - GAP_PX), "white")
    for row, strip in enumerate(sheet.strips):
        for column, image in enumerate(strip.images):
            way = (
                Image.Resampling.NEAREST if image.width < TILE_PX or strip.label == "Map" else Image.Resampling.LANCZOS
            )
            page.paste(image.resize((TILE_PX, TILE_PX), way), (column * step, row * step))
    buffer = io.BytesIO()
    page.save(buffer, "PNG")
    return buffer.getvalue()
