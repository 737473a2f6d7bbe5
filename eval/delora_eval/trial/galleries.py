"""The photos judges are tried on: a dataset's subjects, and unseen ones of the miniature beside their lookalikes."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from delora_sd.data.subjects import load_subject, subject_names
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig

PHOTOS_EACH = 5
"""Renders of every subject among the lookalikes, as many as most real subjects have photos."""


@dataclass(frozen=True, kw_only=True)
class PhotoSet:
    """Photo files, whose they are, and what makes their subjects hard to tell apart."""

    files: tuple[Path, ...]
    subjects: tuple[str, ...]
    groups: tuple[str, ...]


def dataset_photos(dataset: str) -> PhotoSet:
    """Returns every photo of a dataset; its groups are the class words.

    Raises:
        UserError: fewer than two subjects, between which there is nothing to tell apart.
    """
    names = subject_names(dataset)
    if len(names) < 2:
        raise UserError(f"dataset={dataset}: {len(names)} subject in it; to tell subjects apart takes at least 2")
    subjects = [load_subject(DataConfig(subject=name, dataset=dataset)) for name in names]
    return _photo_set([(photo, item.name, item.class_word) for item in subjects for photo in item.photos])


def render_lookalikes(folder: Path, count: int) -> PhotoSet:
    """Writes renders of `count` unseen identities and of one lookalike of each; the pairs are the groups.

    The truth is known: a lookalike has the class and the main colour of its twin and differs in all else.
    """
    from delora_sd.miniature.world.render import render
    from delora_sd.miniature.world.things.identity import draw_identity, hard_negative
    from delora_sd.miniature.world.things.scene import draw_scene

    photos = []
    for pair in range(count):
        rng = np.random.default_rng([_LOOKALIKE_SEED, pair])
        identity = draw_identity(rng, held_out=True)
        for name, who in (("one", identity), ("other", hard_negative(rng, identity, held_out=True))):
            for index in range(PHOTOS_EACH):
                file = folder / f"{pair:03d}-{name}-{index}.png"
                render(draw_scene(rng, who)).save(file)
                photos.append((file, f"{pair:03d}-{name}", f"{pair:03d}"))
    return _photo_set(photos)


_LOOKALIKE_SEED = 7_291_043
"""Of no other stream of renders: neither training nor the miniature's own gates drew these."""


def _photo_set(photos: Sequence[tuple[Path, str, str]]) -> PhotoSet:
    files, subjects, groups = zip(*photos, strict=True)
    return PhotoSet(files=files, subjects=subjects, groups=groups)
