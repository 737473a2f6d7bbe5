"""A map's file to labels: what its colours, grey values or ADE20K's own codes mean. Nothing is guessed.

Label 0 is "none of the classes"; the colours of the others are a data file.
"""

import csv
import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from delora_sd.config.text import read_text
from delora_sd.data.photos import MAX_PHOTO_PIXELS, open_header
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_text

PALETTE_FILE = "palette.csv"
"""In the folder of a dataset with classes of its own, and in every run folder: `label,name,red,green,blue`."""

_COLUMNS = ("label", "name", "red", "green", "blue")
_LOSSLESS = ("PNG", "BMP", "TIFF")
_MAX_LABELS = 255

Labels = UInt8[np.ndarray, "height width"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Palette:
    """The classes of a dataset and how a map shows them."""

    names: tuple[str, ...]
    """Label k is names[k - 1]."""
    colours: UInt8[np.ndarray, "labels 3"]
    """Of every label, label 0 (black) first. Two labels may share a colour: the lower one is read."""
    ade20k: tuple[int, ...] = ()
    """ADE20K's own number of each class, from 1; () for other datasets."""
    text: str
    """The data file."""

    @property
    def num_labels(self) -> int:
        """Label 0 not counted."""
        return len(self.names)


@cache
def scene_parse_150() -> Palette:
    """Returns the 150 classes of SceneParse150 in the colours that ControlNet's segmentation encoder was trained on."""
    file = Path(__file__).with_name("scene_parse_150.csv")
    return parse_palette(file.read_text(encoding="utf-8"), source=str(file))


def find_palette(folder: Path) -> Palette:
    """Returns the dataset's own palette, where its folder has one, else that of SceneParse150."""
    file = folder / PALETTE_FILE
    return parse_palette(_read(file), source=str(file)) if file.exists() else scene_parse_150()


def save_palette(palette: Palette, folder: Path) -> None:
    write_text(folder / PALETTE_FILE, palette.text)


def parse_palette(text: str, *, source: str) -> Palette:
    """Returns the palette of a data file. Raises UserError: a row that is no class and colour, a label out of order."""
    rows = list(csv.DictReader(io.StringIO(text)))
    if not rows or not set(_COLUMNS) <= set(rows[0]):
        raise UserError(f"{source}: expected the columns {', '.join(_COLUMNS)}, one class per line")
    if len(rows) > _MAX_LABELS:
        raise UserError(f"{source}: {len(rows)} classes; expected at most {_MAX_LABELS}")
    colours = [(0, 0, 0)]
    for number, row in enumerate(rows, start=1):
        colours.append(_colour(row, number, source))
    codes = [int(row["ade20k"]) for row in rows] if all((row.get("ade20k") or "").isdecimal() for row in rows) else []
    return Palette(
        names=tuple(row["name"] for row in rows),
        colours=np.array(colours, dtype=np.uint8),
        ade20k=tuple(codes),
        text=text,
    )


def _colour(row: dict[str, str], number: int, source: str) -> tuple[int, int, int]:
    values = [row[name] or "" for name in ("red", "green", "blue")]
    if row["label"] != str(number) or not row["name"]:
        raise UserError(f"{source}, line {number + 1}: expected label {number} and a name, found '{row['label']}'")
    if not all(value.isdecimal() and int(value) <= 255 for value in values) or not any(map(int, values)):
        raise UserError(f"{source}, line {number + 1}: '{','.join(values)}' is no colour (0 to 255, not all 0)")
    return tuple(map(int, values))


def _read(file: Path) -> str:
    try:
        return read_text(file)
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{file}: cannot be read ({error})") from None


def read_labels(file: Path, palette: Palette) -> Labels:
    """Returns the label of every pixel of a map: grey values, the palette's colours, or ADE20K's red and green.

    An indexed image is read by the colours it shows; where those are no colours of the palette, its indices count.

    Raises:
        UserError: no image, a lossy one, transparency, a value or colour that is no class (names file, pixel, colour),
            or no class at all.
    """
    with _open(file) as image:
        mode, image = image.mode, _opaque(file, image)
        if mode in ("L", "1", "I", "I;16") or (mode == "P" and not _shows_colours(image, palette)):
            labels = _from_indices(file, np.asarray(image), palette)
        else:
            labels = _from_colours(file, np.asarray(image.convert("RGB")), palette)
    if not labels.any():
        raise UserError(f"{file}: no pixel shows any of the {palette.num_labels} classes; leave the map out")
    return labels


def map_size(file: Path) -> tuple[int, int]:
    """Returns (width, height) from the file's header."""
    with _open(file) as image:
        return image.size


def _open(file: Path) -> Image.Image:
    image = open_header(file)
    if image.format not in _LOSSLESS:
        image.close()
        raise UserError(f"{file}: a map must keep its exact colours, {image.format} does not; save it as .png")
    if image.width * image.height > MAX_PHOTO_PIXELS:
        image.close()
        raise UserError(f"{file}: {image.width} x {image.height} px is no map; scale it down without blending colours")
    return image


def _opaque(file: Path, image: Image.Image) -> Image.Image:
    """Returns the decoded image; an alpha channel that hides nothing is dropped."""
    try:
        image.load()
    except Exception as error:  # Pillow's decoders raise nearly anything on damaged bytes
        raise UserError(f"{file}: the map is damaged or cut off ({error}); copy it again") from None
    if not image.has_transparency_data:
        return image
    rgba = image.convert("RGBA")
    if rgba.getchannel("A").getextrema()[0] < 255:
        raise UserError(f"{file}: some pixels are transparent, and what they show is unknown; save it without alpha")
    return image if image.mode == "P" else rgba.convert("RGB")


def _shows_colours(image: Image.Image, palette: Palette) -> bool:
    colours = np.asarray(image.convert("RGB")).reshape(-1, 3)
    return bool(np.isin(_code(colours), _code(palette.colours)).all())


def _from_indices(file: Path, values: np.ndarray, palette: Palette) -> Labels:
    values = values.astype(np.int64)
    if (values > palette.num_labels).any():
        row, column = np.argwhere(values > palette.num_labels)[0]
        raise UserError(
            f"{file}: pixel ({column}, {row}) has the value {values[row, column]}; expected labels 0 (none) to "
            f"{palette.num_labels}"
        )
    return values.astype(np.uint8)


def _from_colours(file: Path, pixels: np.ndarray, palette: Palette) -> Labels:
    codes = _code(pixels)
    known, first = np.unique(_code(palette.colours), return_index=True)
    place = np.searchsorted(known, codes).clip(0, len(known) - 1)
    is_known = known[place] == codes
    if is_known.all():
        return first[place].astype(np.uint8)
    if palette.ade20k and (labels := _from_ade20k(pixels, palette)) is not None:
        return labels
    row, column = np.argwhere(~is_known)[0]
    colour = ", ".join(map(str, pixels[row, column].tolist()))
    raise UserError(
        f"{file}: pixel ({column}, {row}) has the colour ({colour}), none of the {palette.num_labels} classes; "
        "expected grey labels, the palette's colours without blending, or ADE20K's _seg.png"
    )


def _from_ade20k(pixels: np.ndarray, palette: Palette) -> Labels | None:
    """Returns the labels of ADE20K's `_seg.png`: class number = red / 10 * 256 + green, blue counts instances.

    Classes beyond the palette become 0. None: the pixels are no such codes.
    """
    red, green = pixels[..., 0].astype(np.int64), pixels[..., 1].astype(np.int64)
    numbers = red // 10 * 256 + green
    if (red % 10).any() or numbers.max() > _MOST_ADE20K:
        return None
    table = np.zeros(_MOST_ADE20K + 1, dtype=np.uint8)
    table[list(palette.ade20k)] = np.arange(1, palette.num_labels + 1)
    return table[numbers]


_MOST_ADE20K = 3148
"""Classes in ADE20K's index."""


def _code(colours: np.ndarray) -> np.ndarray:
    """Returns one whole number per colour."""
    parts = colours.astype(np.int64)
    return parts[..., 0] << 16 | parts[..., 1] << 8 | parts[..., 2]
