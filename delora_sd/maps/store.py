"""Latents, embeddings and labels of a set of pairs, computed once and kept on disk: memory holds only what is drawn.

Rows of plain arrays that are mapped into memory. A store that was interrupted goes on where it stopped.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from delora_sd.data.photos import open_photo, to_square, to_tensor
from delora_sd.diffusion.bases import Base
from delora_sd.diffusion.cache import LatentStats, cache_folder, encode_photos, encode_prompts
from delora_sd.diffusion.parts import load_text_encoder, load_vae
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


def store_bytes(
    num_pairs: int, *, latent_shape: tuple[int, int, int], size_px: int, text_shape: tuple[int, int]
) -> int:
    """Returns what a store takes on disk, with embeddings in half precision."""
    latents, text = np.prod(latent_shape), np.prod(text_shape)
    return int(num_pairs * (2 * 4 * latents + size_px**2 + 2 * text))


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
    rows = {name: _map_rows(folder, name, plan.dtype) for name in ("mean", "std", "text", "labels")}
    data = CellData(
        photos=LatentStats(mean=rows["mean"], std=rows["std"]),
        instance_embedding=rows["text"][0],
        photo_embeddings=rows["text"],
        class_images=None,
        class_embedding=None,
        photo_inputs={"labels": rows["labels"]},
    )
    return data, read_json(folder / _FACTS)["contents"]


def _map_rows(folder: Path, name: str, dtype: torch.dtype) -> Tensor:
    """A tensor whose rows are read when they are drawn. Copy on write: nobody can change the file by accident."""
    rows = torch.from_numpy(np.lib.format.open_memmap(folder / f"{name}.npy", mode="c"))
    return rows.view(dtype) if name == "text" else rows


def _build(plan: StorePlan) -> None:
    """Fills `FOLDER.building` chunk by chunk, then gives it its name."""
    pairs, building = plan.map_set.pairs, plan.folder.with_suffix(".building")
    vae = load_vae(plan.base, device=plan.device, dtype=plan.dtype)
    text = load_text_encoder(plan.base, device=plan.device, dtype=plan.dtype)
    progress = read_json(building / _PROGRESS) if (building / _PROGRESS).exists() else {"done": 0, "hashes": ""}
    chunks = [pairs[start : start + CHUNK] for start in range(progress["done"], len(pairs), CHUNK)]
    with (
        ThreadPoolExecutor(plan.workers) as readers,
        ProgressDisplay("caching maps", total=len(pairs), unit="pairs", done=progress["done"]) as display,
    ):
        for chunk, read in zip(chunks, _read_ahead(plan, chunks, readers), strict=True):
            images, labels, hashes = zip(*read, strict=True)
            latents = encode_photos(torch.stack(images), vae)
            values = {
                "mean": latents.mean.numpy(),
                "std": latents.std.numpy(),
                "text": _embed(chunk, text),
                "labels": np.stack(labels),
            }
            _write_rows(building, values, start=progress["done"], total=len(pairs))
            digest = hashlib.sha256((progress["hashes"] + "".join(hashes)).encode()).hexdigest()
            progress = {"done": progress["done"] + len(chunk), "hashes": digest}
            write_json(building / _PROGRESS, progress)
            display.update(progress["done"])
    write_json(building / _FACTS, {"contents": progress["hashes"], "pairs": len(pairs)})
    os.replace(building, plan.folder)


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
    square = to_square(photo, plan.size_px) if plan.geometry == "crop" else _squash(photo, plan.size_px)
    labels = square_labels(read_labels(pair.map, plan.map_set.palette), plan.size_px, plan.geometry)
    return to_tensor(square), labels, hash_file(pair.map) + hash_file(pair.photo)


def _squash(photo: Image.Image, size_px: int) -> Image.Image:
    return photo.resize((size_px, size_px), Image.Resampling.LANCZOS)


def square_labels(labels: np.ndarray, size_px: int, geometry: str) -> np.ndarray:
    """Returns the map as training and sampling see it: the nearest label, never a mixture."""
    image, side = Image.fromarray(labels), min(labels.shape)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    box = (left, top, left + side, top + side) if geometry == "crop" else (0, 0, image.width, image.height)
    return np.asarray(image.resize((size_px, size_px), Image.Resampling.NEAREST, box=box))


def read_square_labels(file: Path, palette: Palette, *, size_px: int, geometry: str) -> np.ndarray:
    return square_labels(read_labels(file, palette), size_px, geometry)


def _embed(chunk: Sequence[MapPair], text: tuple) -> np.ndarray:
    """The embedding of each pair's caption; captions that repeat are encoded once."""
    distinct = list(dict.fromkeys(pair.caption for pair in chunk))
    embeddings = encode_prompts(distinct, *text).cpu()
    rows = embeddings[[distinct.index(pair.caption) for pair in chunk]].contiguous()
    return rows.view(torch.int16).numpy() if rows.dtype == torch.bfloat16 else rows.numpy()


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
