"""Images to PNG files that say how they were made: whole or not at all, off the critical path."""

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
from delora_sd.stopwatch import time_of

WRITERS = 4
"""Threads; compressing a 512 px image takes 60 ms, flushing it to disk up to as long."""

RANDOM_WEIGHTS = "RANDOM WEIGHTS: the base model is untrained; this image means nothing"


class ImageWriter:
    """Writes one batch of images while the next is drawn; `finished` is called in order, from the caller's thread."""

    def __init__(self, finished: Callable[[list[dict[str, Any]]], None]):
        self._finished = finished
        self._pool = ThreadPoolExecutor(WRITERS)
        self._pending: list[Future] = []
        self._records: list[dict[str, Any]] = []

    def __enter__(self) -> "ImageWriter":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        try:
            self._settle()
        finally:
            self._pool.shutdown()

    def write(self, images: list[tuple[Path, Image.Image, dict[str, Any]]]) -> None:
        """Takes (file, image, its line in images.jsonl) of one batch; waits for the batch before."""
        self._settle()
        self._records = [record for _, _, record in images]
        self._pending = [self._pool.submit(write_image, *image) for image in images]

    @time_of("PNG")
    def _settle(self) -> None:
        """Waits for the batch being written; the first file that could not be written raises."""
        pending, records = self._pending, self._records
        self._pending, self._records = [], []
        for future in pending:
            future.result()
        if records:
            self._finished(records)


def write_image(file: Path, image: Image.Image, record: Mapping[str, Any]) -> None:
    """Writes the PNG with its settings inside; the same image and settings give the same bytes."""
    buffer = io.BytesIO()
    image.save(buffer, "PNG", pnginfo=_metadata(record))
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
