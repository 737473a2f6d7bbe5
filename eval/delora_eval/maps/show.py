"""`delora-sd maps DATASET`: maps and photos side by side, and what is in a dataset, before anything is trained."""

from collections import Counter
from pathlib import Path

import numpy as np

from delora_eval.maps.settings import ShowMapsConfig
from delora_eval.maps.sheet import THUMBNAIL_PX, colour_map
from delora_eval.pages.render import render_page
from delora_eval.pages.thumbnails import Thumbnail, to_thumbnail
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_text
from delora_sd.maps.dataset import MapPair, MapSet, check_sizes, find_map_set
from delora_sd.maps.palette import read_labels

MOST_NAMED = 3
"""Classes said under a map: those that cover most of it."""


def show_maps(config: ShowMapsConfig) -> list[str]:
    """Writes the page and returns what is printed.

    Raises:
        UserError: no such dataset, or maps, photos and captions that do not fit one another.
    """
    if config.count < 1:
        raise UserError(f"count={config.count}: expected at least 1")
    map_set = find_map_set(config.data, config.split)
    shown = map_set.pairs[: config.count]
    check_sizes(map_set.pairs)
    cards = [_card(pair, map_set) for pair in shown]
    title = f"{config.data.dataset}, {config.split}"
    page = Path(config.output).expanduser()
    write_text(page, render_page("map_pairs.html.j2", title=title, cards=cards, legend=_legend(map_set)))
    words = Counter(pair.caption for pair in map_set.pairs).most_common(3)
    return [
        f"{len(map_set.pairs):,} pairs, {map_set.palette.num_labels} classes, {len(shown)} shown",
        "captions: " + ", ".join(f"'{caption}' ({count}x)" for caption, count in words),
        f"page: {page}",
    ]


def _card(pair: MapPair, map_set: MapSet) -> dict[str, Thumbnail | str]:
    labels = read_labels(pair.map, map_set.palette)
    values, counts = np.unique(labels[labels > 0], return_counts=True)
    largest = values[np.argsort(-counts, kind="stable")][:MOST_NAMED]
    named = ", ".join(map_set.palette.names[label - 1] for label in largest)
    return {
        "map": to_thumbnail(colour_map(pair, map_set.palette), THUMBNAIL_PX),
        "photo": to_thumbnail(open_photo(pair.photo), THUMBNAIL_PX),
        "said": f"{pair.name}: {pair.caption} ({named})",
    }


def _legend(map_set: MapSet) -> list[tuple[str, str]]:
    """Returns (class, CSS colour) of every class."""
    colours = map_set.palette.colours[1:].tolist()
    hexes = ["#" + "".join(f"{part:02x}" for part in rgb) for rgb in colours]
    return list(zip(map_set.palette.names, hexes, strict=True))
