"""Photos that are never trained on: only they can tell learning from copying.

Which ones is a function of (subject, seed), so that nobody chooses the easy ones, and no later photo changes them all.
"""

import hashlib
from dataclasses import replace
from pathlib import Path

from delora_sd.data.photos import check_photo, open_photo
from delora_sd.data.subjects import Subject, find_subject
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.settings import TrainConfig

FEWEST_TRAINED = 2
"""With one photo left, subject and photo cannot be told apart, by a training or by a score."""


def load_run_subject(config: TrainConfig) -> Subject:
    """Returns the subject of a run: `photos` are trained on, `held_out` are not.

    Raises:
        UserError: what `load_subject` refuses, or photos that cannot be divided as `data.hold_out` says.
    """
    subject = find_run_subject(config)
    for photo in subject.photos + subject.held_out:
        open_photo(photo)
    return subject


def find_run_subject(config: TrainConfig) -> Subject:
    """Returns the subject of a run by the headers of its photos; whoever decodes them next says which are damaged.

    Raises:
        UserError: what `find_subject` refuses, files that are no photos, or photos that cannot be divided as
            `data.hold_out` says.
    """
    subject = find_subject(config.data)
    for photo in subject.photos:
        check_photo(photo)
    return hold_out(subject, config.data.hold_out, seed=config.seed)


def hold_out(subject: Subject, count: int, *, seed: int) -> Subject:
    """Returns the subject with `count` of its photos set apart, those whose (seed, subject, name) hashes lowest.

    Raises:
        UserError: too few photos would remain, or a photo stands on both sides under two names.
    """
    most = max(0, len(subject.photos) - FEWEST_TRAINED)
    if count < 0:
        raise UserError(f"data.hold_out: {count}; expected 0 or a positive number")
    if count > most and count > 0:
        raise UserError(
            f"data.hold_out: {count} of the {len(subject.photos)} photos of {subject.name} leave "
            f"{max(0, len(subject.photos) - count)} to train on; at least {FEWEST_TRAINED} must remain, so hold out "
            + (f"at most {most}" if most else "none, or give more photos")
        )
    order = sorted(subject.photos, key=lambda photo: _draw(f"{seed}/{subject.name}/{photo.name}"))
    held_out = tuple(sorted(order[:count]))
    trained = tuple(photo for photo in subject.photos if photo not in held_out)
    _check_apart(trained, held_out)
    return replace(subject, photos=trained, held_out=held_out)


def _draw(name: str) -> bytes:
    return hashlib.sha256(name.encode("utf-8", errors="surrogateescape")).digest()  # a file name may be no text


def _check_apart(trained: tuple[Path, ...], held_out: tuple[Path, ...]) -> None:
    known = {hash_file(photo): photo for photo in trained} if held_out else {}
    for photo in held_out:
        twin = known.get(hash_file(photo))
        if twin is not None:
            raise UserError(
                f"data.hold_out: {photo} is held out and {twin.name} is the same photo, trained on; delete one of them"
            )
