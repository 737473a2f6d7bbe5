"""The miniature's maps: scenes of the bundled world with their exact label maps, rendered into the cache once."""

import io
from pathlib import Path

import numpy as np
from PIL import Image

from delora_sd.diffusion.cache import cache_folder
from delora_sd.files.run_folder import write_folder, write_json
from delora_sd.maps.captions import CAPTIONS_FILE
from delora_sd.maps.palette import PALETTE_FILE
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.render import render_labelled
from delora_sd.miniature.world.things.identity import draw_identity
from delora_sd.miniature.world.things.labels import LABELS, label_colours
from delora_sd.miniature.world.things.scene import scatter_subject

EDITION = 1
"""Counted up when anything below changes what is rendered: the cache then holds both."""

PAIRS = {"train": 1200, "val": 120}
FIRST_SEED = {"train": 50_000_000, "val": 99_000_000}
"""Far from the seeds of the segmenter's training, and of each other."""


def ensure_miniature() -> Path:
    """Returns the dataset's folder, in the layout of a dataset of one's own."""
    folder = cache_folder() / "maps" / f"miniature-{EDITION}"
    if not folder.is_dir():
        write_folder(folder, lambda path: write_miniature(path, PAIRS))
    return folder


def write_miniature(folder: Path, num_pairs: dict[str, int]) -> None:
    """Writes {split: pairs}; the photos of `val` show subjects that the base and the training never saw."""
    for split, count in num_pairs.items():
        captions = {}
        for index in range(count):
            name = f"{split}-{index:04d}"
            photo, labels, captions[name] = _pair(FIRST_SEED[split] + index, held_out=split == "val")
            _save(photo, folder / split / "photos" / f"{name}.png")
            _save(
                Image.fromarray(np.array(label_colours(), dtype=np.uint8)[labels]),
                folder / split / "maps" / f"{name}.png",
            )
        write_json(folder / split / CAPTIONS_FILE, captions)
    (folder / PALETTE_FILE).write_text(palette_text(), encoding="utf-8")


def palette_text() -> str:
    """Returns the data file of the world's labels and their colours."""
    rows = [
        f"{label},{name},{red},{green},{blue}"
        for label, (name, (red, green, blue)) in enumerate(zip(LABELS, label_colours()[1:], strict=True), start=1)
    ]
    return "\n".join(["label,name,red,green,blue", *rows, ""])


def _pair(seed: int, *, held_out: bool) -> tuple[Image.Image, np.ndarray, str]:
    """Returns (photo, its labels, caption). The caption names the subject; where it stands and what is around it, its
    colours and its size are left to the map, as most of a room is by "a living room"."""
    rng = np.random.default_rng(seed)
    identity = draw_identity(rng, held_out=held_out)
    photo, labels = render_labelled(scatter_subject(rng, identity, place=str(rng.choice(list(CONTEXTS)))))
    return photo, labels, f"a {identity.class_word}"


def _save(image: Image.Image, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    file.write_bytes(buffer.getvalue())
