"""Images and texts to unit vectors: read in threads, encoded in batches, each image once per view."""

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from delora_eval.scoring.judges.networks.encoders import Encoder, load_encoder, pick_device, read_texts, see_images
from delora_eval.scoring.judges.networks.preprocessing import Preprocessing, is_black, prepare
from delora_eval.scoring.judges.networks.weights import VLM, Weights, find_weights
from delora_eval.scoring.judges.protocols import View
from delora_eval.settings import EncoderConfig
from delora_sd.data.photos import open_photo
from delora_sd.files.contents import hash_file
from delora_sd.stopwatch import time_of


@dataclass(frozen=True, kw_only=True)
class Judge:
    """Loaded encoders and what they have already seen; one per process, shared by all sets, runs and protocols."""

    config: EncoderConfig
    weights: dict[str, Weights] = field(default_factory=dict)
    encoders: dict[str, Encoder] = field(default_factory=dict)
    texts: dict[tuple[str, str], Tensor] = field(default_factory=dict)
    """{(encoder id, text): unit vector}."""
    vectors: dict[tuple[str, View], Tensor] = field(default_factory=dict)
    """{(sha256 of the file, view): unit vector}: reference photos are encoded once."""
    black: dict[str, bool] = field(default_factory=dict)
    """{sha256 of the file: every pixel is 0}."""
    hashes: dict[tuple[Path, int, int], str] = field(default_factory=dict)
    """{(file, modification time, size): sha256}."""
    seconds: dict[str, float] = field(default_factory=dict)
    """{encoder id: time spent in its network so far}; what a judge costs."""
    seen: dict[str, int] = field(default_factory=dict)
    """{encoder id: images it looked at so far}."""
    kept: dict[tuple, Any] = field(default_factory=dict)
    """What judges that give no vectors remember: networks, photos' patches, answers; keys begin with the encoder."""


def use_weights(judge: Judge, encoder_id: str) -> Weights:
    """Returns where the encoder's numbers come from, found and hashed once."""
    if encoder_id not in judge.weights:
        judge.weights[encoder_id] = _find(judge, encoder_id)
    return judge.weights[encoder_id]


def _find(judge: Judge, encoder_id: str) -> Weights:
    if encoder_id != VLM:
        return find_weights(encoder_id, judge.config)
    from delora_eval.scoring.judges.vlm.weights import find_asked_model

    weights, judge.kept[VLM, "folder"] = find_asked_model(judge.config)
    return weights


def use_encoder(judge: Judge, encoder_id: str) -> Encoder:
    """Returns the encoder, loaded at its first use."""
    if encoder_id not in judge.encoders:
        weights = use_weights(judge, encoder_id)
        judge.encoders[encoder_id] = load_encoder(weights, pick_device(judge.config.device))
    return judge.encoders[encoder_id]


def embed_images(judge: Judge, files: Sequence[Path], views: Sequence[View]) -> list[Float[Tensor, "N D"]]:
    """Returns one tensor of unit vectors per view, rows in the order of `files`; each file is decoded once."""
    keys = hash_files(judge, files)
    unseen = {
        key: file
        for key, file in zip(keys, files, strict=True)
        if any((key, view) not in judge.vectors for view in views)
    }
    preprocessings = [_preprocessing(judge, view) for view in views]
    for batch_keys, batch in _read_batches(judge, unseen, preprocessings):
        for view, images in zip(views, batch, strict=True):
            encoder = use_encoder(judge, view.encoder)
            with timed(judge, view.encoder, len(images)):
                vectors = see_images(encoder, images)
            judge.vectors.update(((key, view), vector) for key, vector in zip(batch_keys, vectors, strict=True))
    return [torch.stack([judge.vectors[key, view] for key in keys]) for view in views]


def embed_texts(judge: Judge, encoder_id: str, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Returns unit vectors of the texts; each text is read once."""
    encoder, size = use_encoder(judge, encoder_id), judge.config.batch_size
    unseen = [text for text in dict.fromkeys(texts) if (encoder_id, text) not in judge.texts]
    for start in range(0, len(unseen), size):
        batch = unseen[start : start + size]
        vectors = read_texts(encoder, batch)
        judge.texts.update(((encoder_id, text), vector) for text, vector in zip(batch, vectors, strict=True))
    return torch.stack([judge.texts[encoder_id, text] for text in texts])


@contextlib.contextmanager
def timed(judge: Judge, encoder_id: str, num_images: int) -> Iterator[None]:
    """Adds the time inside to what the encoder has cost."""
    began = time.perf_counter()
    with time_of("judging"):
        yield
    judge.seconds[encoder_id] = judge.seconds.get(encoder_id, 0.0) + time.perf_counter() - began
    judge.seen[encoder_id] = judge.seen.get(encoder_id, 0) + num_images


def hash_files(judge: Judge, files: Sequence[Path]) -> list[str]:
    """Returns the sha256 of every file; a file that did not change is not read again."""
    stamps = [(file, (stat := file.stat()).st_mtime_ns, stat.st_size) for file in files]
    unknown = [stamp for stamp in dict.fromkeys(stamps) if stamp not in judge.hashes]
    with ThreadPoolExecutor(judge.config.num_readers) as readers:
        judge.hashes.update(zip(unknown, readers.map(lambda stamp: hash_file(stamp[0]), unknown), strict=True))
    return [judge.hashes[stamp] for stamp in stamps]


def black_images(judge: Judge, files: Sequence[Path]) -> list[bool]:
    """Returns which images are black from edge to edge; they must have been embedded."""
    return [judge.black[key] for key in hash_files(judge, files)]


def is_black_image(judge: Judge, file: Path) -> bool:
    """Returns whether the image is black from edge to edge; it is decoded once per judge."""
    (key,) = hash_files(judge, [file])
    if key not in judge.black:
        judge.black[key] = is_black(open_photo(file))
    return judge.black[key]


def _preprocessing(judge: Judge, view: View) -> Preprocessing:
    return view.preprocessing or use_encoder(judge, view.encoder).preprocessing


def _read_batches(
    judge: Judge, files: dict[str, Path], preprocessings: Sequence[Preprocessing]
) -> Iterator[tuple[list[str], list[Tensor]]]:
    """Yields (keys, one (N, 3, H, W) tensor per preprocessing); the next batch is read while this one is encoded."""

    def read(key: str) -> list[np.ndarray]:
        image = open_photo(files[key])
        judge.black[key] = is_black(image)
        return [prepare(image, preprocessing) for preprocessing in preprocessings]

    keys, size = list(files), judge.config.batch_size
    batches = [keys[start : start + size] for start in range(0, len(keys), size)]
    with ThreadPoolExecutor(judge.config.num_readers) as readers:

        def start(index: int) -> list[Future]:
            return [readers.submit(read, key) for key in batches[index]] if index < len(batches) else []

        pending = start(0)
        for index, batch in enumerate(batches):
            current, pending = pending, start(index + 1)
            with time_of("reading images"):
                images = [future.result() for future in current]
            columns = zip(*images, strict=True) if preprocessings else []
            yield batch, [torch.from_numpy(np.stack(column)) for column in columns]
