"""Which maps belong to which photos and captions, in the layouts that exist; splits; sizes. Decodes no pixels."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from delora_sd.data.photo_files import is_of_the_system
from delora_sd.data.photos import open_header
from delora_sd.errors import UserError
from delora_sd.maps.captions import CAPTIONS_FILE, SCENES, SCENES_FILE, read_captions
from delora_sd.maps.palette import Palette, find_palette, map_size
from delora_sd.maps.settings import MapDataConfig, Split

MINIATURE = "miniature"
_SHOWN = 3


@dataclass(frozen=True, kw_only=True)
class Layout:
    """Where one split of a dataset lies."""

    maps: Path
    photos: Path
    captions: Path | None
    """That came with the dataset."""


@dataclass(frozen=True, kw_only=True)
class MapPair:
    """A map, the photo it was drawn from, and what is said of it."""

    name: str
    map: Path
    photo: Path
    caption: str


@dataclass(frozen=True, kw_only=True)
class MapSet:
    """One split of a dataset, in the order of names."""

    pairs: tuple[MapPair, ...]
    palette: Palette


def find_map_set(config: MapDataConfig, split: Split) -> MapSet:
    """Returns the pairs of a split; `search` and `train` part the training split by the hash of their names.

    Raises:
        UserError: no dataset of a layout we know, maps and photos that do not belong together, or no captions.
    """
    folder = dataset_folder(config)
    layout = _find_layout(folder, "val" if split == "test" else "train")
    names = _choose(_matched_names(layout), config, split)
    captions = _captions(config, layout, folder, names)
    photos, maps = _by_stem(layout.photos), _by_stem(layout.maps)
    return MapSet(
        pairs=tuple(
            MapPair(
                name=name,
                map=maps[name],
                photo=photos[name],
                caption=config.template.replace("{caption}", captions[name]),
            )
            for name in names
        ),
        palette=find_palette(folder),
    )


def dataset_folder(config: MapDataConfig) -> Path:
    """Returns the dataset's folder; the miniature's is rendered into the cache where it is not there yet."""
    if "{caption}" not in config.template and not config.template.strip():
        raise UserError("data.template: empty; expected a prompt, usually with {caption} in it")
    if config.dataset == MINIATURE:
        from delora_sd.maps.miniature import ensure_miniature

        return ensure_miniature()
    return Path(config.dataset).expanduser()


def check_sizes(pairs: Sequence[MapPair]) -> None:
    """Raises UserError for a map whose photo has another size: they would not lie on one another."""
    for pair in pairs:
        with open_header(pair.photo) as photo:
            size = photo.size
        if size != map_size(pair.map):
            width, height = map_size(pair.map)
            raise UserError(
                f"{pair.map} is {width} x {height} px, its photo {pair.photo.name} {size[0]} x {size[1]}; they must "
                "have one size"
            )


def list_maps(folder: Path) -> tuple[Path, ...]:
    """Returns a folder's maps, by name. Raises UserError: none there, or two of one name."""
    if not folder.is_dir():
        raise UserError(f"maps={folder}: no such folder")
    found = _by_stem(folder)
    if not found:
        raise UserError(f"maps={folder}: no maps; expected .png files of labels or colours")
    return tuple(found[name] for name in sorted(found))


def _find_layout(folder: Path, side: str) -> Layout:
    """`side` is train or val."""
    long = {"train": "training", "val": "validation"}[side]
    for root in (folder, folder / "ADEChallengeData2016"):
        if (root / "annotations" / long).is_dir():
            return Layout(maps=root / "annotations" / long, photos=root / "images" / long, captions=None)
    inner = folder / side
    if (inner / "segm").is_dir():
        lists = [inner / f"prompt_{side}_blip{tail}.json" for tail in ("_full", "")]
        captions = next((file for file in lists if file.exists()), None)
        return Layout(maps=inner / "segm", photos=inner / "color", captions=captions)
    if (inner / "maps").is_dir():
        captions = inner / CAPTIONS_FILE
        return Layout(maps=inner / "maps", photos=inner / "photos", captions=captions if captions.exists() else None)
    raise UserError(
        f"data.dataset={folder}: no maps in it; expected annotations/{long} and images/{long} (SceneParse150), "
        f"{side}/segm and {side}/color (OFT), {side}/maps and {side}/photos (yours), or `{MINIATURE}`"
    )


def _by_stem(folder: Path) -> dict[str, Path]:
    """Returns {name without ending: file}; {} where there is no folder."""
    found: dict[str, Path] = {}
    if not folder.is_dir():
        return found
    for file in sorted(folder.iterdir()):
        if is_of_the_system(file) or not file.is_file():
            continue
        if file.stem in found:
            raise UserError(f"{folder}: {found[file.stem].name} and {file.name} share a name; keep one")
        found[file.stem] = file
    return found


def _matched_names(layout: Layout) -> list[str]:
    maps, photos = _by_stem(layout.maps), _by_stem(layout.photos)
    if not maps:
        raise UserError(f"{layout.maps}: no maps in it")
    for here, there, what in ((maps, photos, "photo"), (photos, maps, "map")):
        if lonely := sorted(set(here) - set(there)):
            folder = layout.photos if what == "photo" else layout.maps
            shown = ", ".join(lonely[:_SHOWN]) + (", ..." if len(lonely) > _SHOWN else "")
            raise UserError(f"{folder}: no {what} for {len(lonely)} of {len(here)} names ({shown})")
    return sorted(maps)


def _choose(names: list[str], config: MapDataConfig, split: Split) -> list[str]:
    """The training split is parted by the hash of names: more files elsewhere move nobody to the other side."""
    if split == "test":
        return names
    if not 0 <= config.search_maps < len(names):
        raise UserError(
            f"data.search_maps={config.search_maps}: of {len(names)} training maps; expected 0 to {len(names) - 1}"
        )
    drawn = sorted(names, key=lambda name: hashlib.sha256(name.encode()).hexdigest())
    if split == "search":
        return sorted(drawn[: config.search_maps])
    rest = drawn[config.search_maps :]
    if config.limit is not None and not 1 <= config.limit <= len(rest):
        raise UserError(f"data.limit={config.limit}: expected 1 to {len(rest)}, the training maps there are")
    return sorted(rest[: config.limit])


def _captions(config: MapDataConfig, layout: Layout, folder: Path, names: list[str]) -> dict[str, str]:
    if "{caption}" not in config.template:
        return dict.fromkeys(names, "")
    if config.captions == SCENES:
        places = (folder, folder / "ADEChallengeData2016")
        return read_captions(
            next((p / SCENES_FILE for p in places if (p / SCENES_FILE).exists()), folder / SCENES_FILE), names
        )
    if config.captions is not None:
        return read_captions(Path(config.captions).expanduser(), names)
    if layout.captions is None:
        raise UserError(
            f"data.captions: {folder} brings none; give a file (.json, .jsonl, .csv), `{SCENES}` for SceneParse150's "
            "scene categories, or a data.template without {caption}"
        )
    return read_captions(layout.captions, names)
