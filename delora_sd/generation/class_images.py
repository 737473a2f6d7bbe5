"""Class images for prior preservation: made once by the base model, shared by every run that wants the same."""

import fcntl
import hashlib
import json
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from delora_sd.data.prompts import Prompt, class_prompt
from delora_sd.diffusion.cache import cache_folder
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import resolve_device, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.files.leftovers import remove_leftovers
from delora_sd.files.run_folder import write_json
from delora_sd.generation.images import ImageWriter
from delora_sd.generation.model import load_model
from delora_sd.generation.requests import ImageRequest, SamplingSettings, slug
from delora_sd.generation.sampler import Sampler, default_batch_size, render_images
from delora_sd.progress import ProgressDisplay
from delora_sd.settings import DataConfig, ModelConfig

NUM_INFERENCE_STEPS, GUIDANCE = 25, 7.5
"""DPM-Solver++ with 25 steps, as every image here, in place of the OFT scripts' PNDM with 50: half the time, and the
prior is preserved under the sampler that is used afterwards."""


def ensure_class_images(
    base: Base,
    model: ModelConfig,
    data: DataConfig,
    *,
    class_word: str,
    num_images: int,
    shape_px: tuple[int, int] | None = None,
) -> Path:
    """Returns a folder with at least `num_images` images of the class, 0000.png and on; makes what is missing.

    Safe when several processes want the same: one draws, the others wait.

    Args:
        shape_px: Height and width; none: squares of the base's size.

    Raises:
        UserError: a class template that names the subject, or a cache folder that cannot be written.
    """
    text = class_prompt(data.class_template, class_word=class_word)
    device = resolve_device()
    dtype = resolve_dtype(model.dtype, device)
    sampling = SamplingSettings(
        num_inference_steps=NUM_INFERENCE_STEPS,
        guidance=GUIDANCE,
        negative_prompt="",
        size_px=base.size_px,
        shape_px=shape_px,
    )
    facts = {"prompt": text, "base": base.fingerprint, "dtype": str(dtype), **sampling.facts()}
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    folder = cache_folder() / "class_images" / f"{slug(class_word)}-{name}"
    with _waiting_for(folder):
        requests = _requests(folder, text, num_images)
        missing = [request for request in requests if not request.file.exists()]
        if missing:
            write_json(folder / "class_images.json", facts | {"base_name": base.name})
            sampler = load_model(base, device=device, dtype=dtype).sampler([text], sampling)
            _draw(requests, len(missing), sampler, facts, base)
    return folder


def _draw(requests: list[ImageRequest], num_missing: int, sampler: Sampler, facts: dict, base: Base) -> None:
    facts = facts | {"random_weights": base.has_random_weights}
    title = f"class images '{facts['prompt']}'"
    with (
        ProgressDisplay(title, total=num_missing, unit="images") as progress,
        ImageWriter(lambda records: progress.advance(len(records))) as writer,
    ):
        render_images(
            requests,
            lambda request: not request.file.exists(),
            sampler=sampler,
            batch_size=default_batch_size(sampler.denoiser.device),
            save=lambda batch: writer.write([(r.file, image, facts | {"seed": r.seed}) for r, image in batch]),
            say=progress.say,
        )


def _requests(folder: Path, text: str, num_images: int) -> list[ImageRequest]:
    prompt = Prompt(index=0, template=text, text=text)
    return [ImageRequest(prompt=prompt, seed=i, file=folder / f"{i:04d}.png") for i in range(num_images)]


@contextmanager
def _waiting_for(folder: Path) -> Iterator[None]:
    """Holds the folder; a second process waits until the first is done (the system frees a dead process's hold)."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / ".lock").open("a+")
    except OSError as error:
        raise UserError(f"cache folder {folder}: {error.strerror or error}; set DELORA_SD_CACHE to another") from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
        except OSError:
            warnings.warn(f"{folder}: this disk has no locks; let one process make the class images", stacklevel=2)
        remove_leftovers(folder)
        yield
