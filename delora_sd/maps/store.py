"""Latents, embeddings and labels of a set of pairs, computed once and kept on disk: memory holds only what is drawn.

Rows of plain arrays that are mapped into memory. A store that was interrupted goes on where it stopped.
"""

import hashlib
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from delora_sd.data.photos import open_photo, to_square, to_tensor
from delora_sd.diffusion.cache import LatentStats, cache_folder, encode_photos
from delora_sd.diffusion.families.family import Base, Condition
from delora_sd.diffusion.parts import load_text, load_vae
from delora_sd.errors import DiskError
from delora_sd.files.contents import hash_file
from delora_sd.files.locks import hold
from delora_sd.files.run_folder import read_json, write_json
from delora_sd.maps.dataset import MapPair, MapSet
from delora_sd.maps.palette import Palette, read_labels
from delora_sd.maps.settings import MapDataConfig
from delora_sd.progress import ProgressDisplay
from delora_sd.training.loop.member import CellData

CHUNK = 64
"""Pairs between two marks of progress."""

_PROGRESS, _FACTS = "progress.json", "facts.json"


@dataclass(frozen=True, kw_only=True)
class StorePlan:
    """What a store is made from and how."""

    map_set: MapSet
    base: Base
    size_px: int
    geometry: str
    device: torch.device
    dtype: torch.dtype
    workers: int

    @property
    def folder(self) -> Path:
        """Named by all that decides its contents; files count by size and time, their contents when they are read."""
        facts = [self.base.fingerprint, str(self.dtype), self.size_px, self.geometry, self.map_set.palette.text]
        pairs = [[pair.name, pair.caption, *_stamp(pair.map), *_stamp(pair.photo)] for pair in self.map_set.pairs]
        digest = hashlib.sha256(json.dumps([facts, pairs]).encode()).hexdigest()[:16]
        return cache_folder() / "maps" / digest


def store_plan(
    config: MapDataConfig, map_set: MapSet, base: Base, *, size_px: int, device: torch.device, dtype: torch.dtype
) -> StorePlan:
    return StorePlan(
        map_set=map_set,
        base=base,
        size_px=size_px,
        geometry=config.geometry,
        device=device,
        dtype=dtype,
        workers=config.workers,
    )


def _stamp(file: Path) -> tuple[int, int]:
    status = file.stat()
    return status.st_size, status.st_mtime_ns


def store_bytes(base: Base, num_pairs: int) -> int:
    """Returns what a store takes on disk: both statistics of the latents, the labels, and, where no two maps share a
    caption, embeddings in half precision."""
    latents = 2 * 4 * base.latent_channels * base.latent_side**2
    text = 2 * sum(math.prod(shape) for shape in base.family.condition_shapes(base).values())
    return num_pairs * (latents + base.size_px**2 + text)


class StoredCaptions(Sequence[Condition]):
    """The condition of each pair's caption, read from the disk when it is asked for."""

    def __init__(self, tables: Mapping[str, Tensor], rows: Sequence[int]):
        self._tables = tables
        self._rows = rows
        """Of each pair, in the tables of distinct captions."""

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, pair: int) -> Condition:
        return {name: table[self._rows[pair]] for name, table in self._tables.items()}


def ensure_store(plan: StorePlan) -> tuple[CellData, str]:
    """Returns the data of the loop, on disk, and the hash of all that it was made from.

    Raises:
        UserError: a photo or map that cannot be read (names it), or a full disk.
    """
    folder = plan.folder
    if not (folder / _FACTS).exists():
        with hold(folder.with_suffix(".lock"), guarding=folder, setting="DELORA_SD_CACHE"):
            if not (folder / _FACTS).exists():
                _build(plan)
    facts = read_json(folder / _FACTS)
    texts = _distinct_captions(plan)
    place = {text: row for row, text in enumerate(texts)}
    tables = {name: _map_rows(folder, f"text-{name}", getattr(torch, kind)) for name, kind in facts["text"].items()}
    data = CellData(
        photos=LatentStats(mean=_map_rows(folder, "mean"), std=_map_rows(folder, "std")),
        captions=StoredCaptions(tables, [place[pair.caption] for pair in plan.map_set.pairs]),
        class_images=None,
        class_caption=None,
        photo_inputs={"labels": _map_rows(folder, "labels")},
    )
    return data, facts["contents"]


def _distinct_captions(plan: StorePlan) -> list[str]:
    return sorted({pair.caption for pair in plan.map_set.pairs})


def _map_rows(folder: Path, name: str, dtype: torch.dtype | None = None) -> Tensor:
    """A tensor whose rows are read when they are drawn. Copy on write: nobody can change the file by accident."""
    rows = torch.from_numpy(np.lib.format.open_memmap(folder / f"{name}.npy", mode="c"))
    return rows if dtype is None else rows.view(dtype)


def _build(plan: StorePlan) -> None:
    """Fills `FOLDER.building`, captions first, then pairs chunk by chunk, and gives it its name."""
    building = plan.folder.with_suffix(".building")
    if not (building / _PROGRESS).exists():
        kinds = _store_captions(plan, building)
        write_json(building / _PROGRESS, {"done": 0, "hashes": "", "text": kinds})
    progress = _store_pairs(plan, building)
    write_json(building / _FACTS, {"contents": progress["hashes"], "text": progress["text"]})
    os.replace(building, plan.folder)


def _store_captions(plan: StorePlan, building: Path) -> dict[str, str]:
    """Writes a table per tensor of a condition; returns {its name: its dtype}."""
    texts, text = _distinct_captions(plan), load_text(plan.base, device=plan.device, dtype=plan.dtype)
    kinds: dict[str, str] = {}
    for start in range(0, len(texts), CHUNK):
        with torch.no_grad():
            conditions = plan.base.family.encode_prompts(texts[start : start + CHUNK], text)
        for name in conditions[0]:
            rows = torch.stack([each[name] for each in conditions]).cpu()
            kinds[name] = str(rows.dtype).removeprefix("torch.")
            stored = rows.view(torch.int16) if rows.dtype == torch.bfloat16 else rows  # numpy has no bf16
            _write_rows(building, {f"text-{name}": stored.numpy()}, start=start, total=len(texts))
    return kinds


def _store_pairs(plan: StorePlan, building: Path) -> dict[str, Any]:
    """Writes latents and labels from where the progress stands; returns the progress at the end."""
    pairs, progress = plan.map_set.pairs, read_json(building / _PROGRESS)
    vae = load_vae(plan.base, device=plan.device, dtype=plan.dtype)
    chunks = [pairs[start : start + CHUNK] for start in range(progress["done"], len(pairs), CHUNK)]
    with (
        ThreadPoolExecutor(plan.workers) as readers,
        ProgressDisplay("caching maps", total=len(pairs), unit="pairs", done=progress["done"]) as display,
    ):
        for read in _read_ahead(plan, chunks, readers):
            images, labels, hashes = zip(*read, strict=True)
            latents = encode_photos(torch.stack(images), vae, plan.base.family)
            values = {"mean": latents.mean.numpy(), "std": latents.std.numpy(), "labels": np.stack(labels)}
            _write_rows(building, values, start=progress["done"], total=len(pairs))
            digest = hashlib.sha256((progress["hashes"] + "".join(hashes)).encode()).hexdigest()
            progress = progress | {"done": progress["done"] + len(read), "hashes": digest}
            write_json(building / _PROGRESS, progress)
            display.update(progress["done"])
    return progress


def _read_ahead(plan: StorePlan, chunks: Sequence[Sequence[MapPair]], readers: ThreadPoolExecutor) -> Iterator[list]:
    """Yields each chunk read; the next one is being read meanwhile."""
    waiting = None
    for chunk in chunks:
        submitted = [readers.submit(_read_pair, pair, plan) for pair in chunk]
        if waiting is not None:
            yield [future.result() for future in waiting]
        waiting = submitted
    if waiting is not None:
        yield [future.result() for future in waiting]


def _read_pair(pair: MapPair, plan: StorePlan) -> tuple[Tensor, np.ndarray, str]:
    """Returns (photo in [-1, 1], its labels, the hash of both files), square."""
    photo = open_photo(pair.photo)
    square = square_image(photo, plan.size_px, plan.geometry)
    labels = square_labels(read_labels(pair.map, plan.map_set.palette), plan.size_px, plan.geometry)
    return to_tensor(square), labels, hash_file(pair.map) + hash_file(pair.photo)


def square_image(photo: Image.Image, size_px: int, geometry: str) -> Image.Image:
    """Returns the photo squashed to a square, or its largest centred square (Lanczos)."""
    if geometry == "crop":
        return to_square(photo, size_px)
    return photo.resize((size_px, size_px), Image.Resampling.LANCZOS)


def square_labels(labels: np.ndarray, size_px: int, geometry: str) -> np.ndarray:
    """Returns the map as training and sampling see it: the nearest label, never a mixture."""
    image, side = Image.fromarray(labels), min(labels.shape)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side) if geometry == "crop" else (0, 0, image.width, image.height)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.NEAREST, box=box))


def read_square_labels(file: Path, palette: Palette, *, size_px: int, geometry: str) -> np.ndarray:
    return square_labels(read_labels(file, palette), size_px, geometry)


def _write_rows(folder: Path, values: dict[str, np.ndarray], *, start: int, total: int) -> None:
    """Writes rows from `start`, on disk before progress is told; what a crash left after them is cut off."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        for name, rows in values.items():
            with (folder / f"{name}.npy").open("r+b" if start else "wb") as file:
                if start:
                    np.lib.format.read_magic(file)
                    np.lib.format.read_array_header_1_0(file)
                else:
                    np.lib.format.write_array_header_1_0(file, _header(rows, total))
                file.truncate(file.tell() + start * rows[0].nbytes)
                file.seek(0, os.SEEK_END)
                file.write(np.ascontiguousarray(rows).tobytes())
                file.flush()
                os.fsync(file.fileno())
    except OSError as error:
        raise DiskError(f"cannot write {folder}: {error.strerror or error}") from error


def _header(rows: np.ndarray, total: int) -> dict:
    """Of the whole array, of which these are the first rows."""
    return np.lib.format.header_data_from_array_1_0(rows) | {"shape": (total, *rows.shape[1:]), "fortran_order": False}
