"""Pictures to PNG files that say how they were made: whole or not at all, off the critical path."""

import io
import json
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image, PngImagePlugin

from delora_sd import __version__
from delora_sd.files.run_folder import write_bytes

WRITERS = 4
"""Threads; compressing a 512 px picture takes 60 ms, flushing it to disk up to as long."""

RANDOM_WEIGHTS = "RANDOM WEIGHTS: the base model is untrained; this picture means nothing"


class PictureWriter:
    """Writes one batch of pictures while the next is drawn; `finished` is called in order, from the caller's thread."""

    def __init__(self, finished: Callable[[list[dict[str, Any]]], None]):
        self._finished = finished
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future] = []
        self._records: list[dict[str, Any]] = []

    def __enter__(self) -> "PictureWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._settle()
        finally:
            self._pool.shutdown()

    def write(self, pictures: list[tuple[Path, Image.Image, dict[str, Any]]]) -> None:
        """Takes (file, picture, its line in images.jsonl) of one batch; waits for the batch before."""
        self._settle()
        self._records = [record for _, _, record in pictures]
        self._pending = [self._pool.submit(write_picture, *picture) for picture in pictures]

    def _settle(self) -> None:
        """Waits for the batch being written; the first file that could not be written raises."""
        pending, records = self._pending, self._records
        self._pending, self._records = [], []
        for future in pending:
            future.result()
        if records:
            self._finished(records)


def write_picture(file: Path, picture: Image.Image, record: Mapping[str, Any]) -> None:
    """Writes the PNG with its settings inside; the same picture and settings give the same bytes."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", pnginfo=_metadata(record))
    write_bytes(file, buffer.getvalue())


def _metadata(record: Mapping[str, Any]) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    texts = {"Software": f"delora_sd {__version__}", "prompt": record["prompt"], "seed": str(record["seed"])}
    texts["settings"] = json.dumps(record, sort_keys=True, ensure_ascii=False)
    if record["random_weights"]:
        texts["Warning"] = RANDOM_WEIGHTS
    for key, text in texts.items():
        info.add_itxt(key, text)
    return info
