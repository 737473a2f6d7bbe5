"""Images from maps: what is asked for, minus what is there, drawn and listed. The map is given to both branches of
guidance, so guidance acts on the text only."""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from delora_sd.adapters.exchange.merge.merging import merged_adapters
from delora_sd.data.prompts import Prompt
from delora_sd.diffusion.families.family import Base, Solver
from delora_sd.diffusion.parts import resolve_device, resolve_dtype
from delora_sd.files.contents import check_base, hash_file
from delora_sd.files.run_folder import RunFolder, append_line
from delora_sd.generation.images import ImageWriter
from delora_sd.generation.model import ModelKeeper
from delora_sd.generation.requests import (
    ImageRequest,
    ImageSet,
    SamplingSettings,
    describe_set,
    finished_files,
    read_listing,
    slug,
    write_listing,
)
from delora_sd.generation.sampler import Sampler, default_batch_size, render_images
from delora_sd.generation.sources import hash_adapters
from delora_sd.maps.ddim import Ddim
from delora_sd.maps.encoder import WEIGHTS_FILE, HintPort, load_encoder
from delora_sd.maps.palette import Palette
from delora_sd.maps.store import read_square_labels
from delora_sd.progress import ProgressDisplay
from delora_sd.settings import ModelConfig

MAX_STEM = 60
"""Characters of a map's name in its images' names."""


@dataclass(frozen=True, kw_only=True)
class MapImage:
    """One image that is wanted: a map, a prompt and a seed."""

    map: Path
    prompt: Prompt
    seed: int

    @property
    def file_name(self) -> str:
        """Of a long name only the beginning: the seed is the map's own."""
        parts = (self.map.stem[:MAX_STEM], f"{self.prompt.index:02d}", slug(self.prompt.text), f"s{self.seed}")
        return "-".join(part for part in parts if part) + ".png"


@dataclass(frozen=True, kw_only=True)
class MapSource:
    """What draws: a base, adapters on it, and the encoder that reads the maps."""

    model: ModelConfig
    adapters: Mapping[Path, float]
    """{folder or file: strength}, the run's own first."""
    control: Path | None
    """The encoder's folder; none: the maps are not shown to the model."""
    palette: Palette
    geometry: str
    images: Path
    """Folder that image sets go into."""
    run: RunFolder | None = None
    """Whose base it must be."""


def seed_of_map(name: str, seed: int) -> int:
    """Returns the seed of a map's noise: its own, whatever other maps are drawn, and another for another `seed`."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{name}".encode()).digest()[:4], "big")


def draw_maps(
    source: MapSource,
    wanted: Sequence[MapImage],
    sampling: SamplingSettings,
    *,
    batch_size: int | None,
    keeper: ModelKeeper | None = None,
    step: int | None = None,
) -> Path:
    """Returns the folder of the image set, with every image that was asked for; the same call again resumes.

    Raises:
        UserError: a map that cannot be read, another base than the run's, or a full disk.
    """
    keeper = keeper or ModelKeeper()
    base = keeper.find(source.model)
    if source.run is not None:
        check_base(source.run, name=base.name, fingerprint=base.fingerprint, advice="bring it back")
    make_solver = _solver_of(sampling, base)
    make_solver(base, sampling.num_inference_steps, device="cpu")  # refused before anything is written
    labels = _read_maps(source, wanted, sampling.size_px)
    image_set = _describe(source, wanted, sampling, base, labels, step)
    requests = [ImageRequest(prompt=one.prompt, seed=one.seed, file=image_set.folder / one.file_name) for one in wanted]
    maps = {request.file: one.map for request, one in zip(requests, wanted, strict=True)}
    with RunFolder(image_set.folder).lock():
        finished = finished_files(image_set)
        if any(request.file.name not in finished for request in requests):
            _draw(source, base, sampling, image_set, requests, maps, labels, finished, batch_size, keeper)
            write_listing(image_set, read_listing(image_set.listing))
    return image_set.folder


def _solver_of(sampling: SamplingSettings, base: Base) -> Callable[..., Solver]:
    return Ddim if sampling.solver == "ddim" else base.family.solver


def _read_maps(source: MapSource, wanted: Sequence[MapImage], size_px: int) -> dict[Path, np.ndarray]:
    """Returns the square labels of every map that is shown; all are read before a model is loaded."""
    files = dict.fromkeys(one.map for one in wanted)
    return {file: read_square_labels(file, source.palette, size_px=size_px, geometry=source.geometry) for file in files}


def _describe(
    source: MapSource,
    wanted: Sequence[MapImage],
    sampling: SamplingSettings,
    base: Base,
    labels: Mapping[Path, np.ndarray],
    step: int | None,
) -> ImageSet:
    more: dict = {"control": None, "maps": [one.file_name for one in wanted]}
    if source.control is not None:
        shown = hashlib.sha256(b"".join(labels[one.map].tobytes() for one in wanted)).hexdigest()
        more = {"control": hash_file(source.control / WEIGHTS_FILE), "maps": [*more["maps"], shown]}
    dtype = resolve_dtype(source.model.dtype, resolve_device())
    image_set = describe_set(
        source.images,
        [one.prompt for one in wanted],
        base=base,
        precision=f"{dtype}, {source.model.quantization}",
        sampling=sampling,
        adapters=hash_adapters(source.adapters),
        step=step,
        more=more,
    )
    return replace(image_set, facts={**image_set.facts, "control": more["control"]})


def _draw(
    source: MapSource,
    base: Base,
    sampling: SamplingSettings,
    image_set: ImageSet,
    requests: Sequence[ImageRequest],
    maps: Mapping[Path, Path],
    labels: Mapping[Path, np.ndarray],
    finished: set[str],
    batch_size: int | None,
    keeper: ModelKeeper,
) -> None:
    """Draws and writes the missing images; an image is listed when it and all of its batch are on disk."""
    device = resolve_device()
    model = keeper.load(
        base,
        device=device,
        dtype=resolve_dtype(source.model.dtype, device),
        quantization=source.model.quantization,
        is_compiled=False,
    )
    texts = [request.prompt.text for request in requests]
    sampler = replace(model.sampler(texts, sampling), make_solver=_solver_of(sampling, base))

    def list_images(records: list[dict]) -> None:
        for record in records:
            append_line(image_set.listing, record)
        progress.advance(len(records))

    def save(batch: list) -> None:
        writer.write([(r.file, image, image_set.record(r) | {"map": maps[r.file].name}) for r, image in batch])

    is_missing = lambda request: request.file.name not in finished  # noqa: E731
    with ExitStack() as stack:
        if source.control is not None:
            shown = {file: labels[map_file] for file, map_file in maps.items()}
            sampler = replace(sampler, drawing=stack.enter_context(_control(source.control, sampler, shown)))
        stack.enter_context(merged_adapters(sampler.denoiser, source.adapters))
        progress = stack.enter_context(
            ProgressDisplay(image_set.folder.name, total=sum(map(is_missing, requests)), unit="images")
        )
        writer = stack.enter_context(ImageWriter(list_images))
        render_images(
            requests,
            is_missing,
            sampler=sampler,
            batch_size=batch_size or default_batch_size(device),
            save=save,
            say=progress.say,
        )


@contextmanager
def _control(folder: Path, sampler: Sampler, shown: Mapping[Path, np.ndarray]) -> Iterator:
    """Inside, the UNet takes hints; yields what a sampler enters around each batch of requests."""
    encoder, port = load_encoder(folder, sampler.denoiser).to(sampler.denoiser.device), HintPort(sampler.denoiser)

    @contextmanager
    def hinted(requests: Sequence[ImageRequest]) -> Iterator[None]:
        batch = torch.from_numpy(np.stack([shown[request.file] for request in requests]))
        with torch.no_grad():
            port.hint = encoder(batch.to(sampler.denoiser.device))
        try:
            yield
        finally:
            port.hint = None

    try:
        yield hinted
    finally:
        port.close()
