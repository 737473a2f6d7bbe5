"""The photos a run was made from, recognised by their contents: a folder may move, a photo may be renamed."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from delora_sd.data.subjects import Subject
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file_once
from delora_sd.files.run_folder import RunFolder

_SHOWN = 4
"""Photos that a message names."""


def recognise_subject(run: RunFolder, subject: Subject, *, advice: str) -> Subject:
    """Returns the subject as the run knows it: its name, which photos are held out, the trained ones in their order.

    A run that does not list its photos takes any.

    Raises:
        UserError: another class word, or a photo that has changed, is missing, or is new; `advice` says what to do.
    """
    manifest = run.read_manifest()
    facts = manifest.get("subject", {})
    for key in ("class_word", "is_live"):
        before, now = facts.get(key), getattr(subject, key)
        if before is not None and before != now:
            raise UserError(f"{run.path} was trained with data.{key}={before}, now it is {now}; {advice}")
    subject = replace(subject, name=facts.get("name") or subject.name)
    trained, held_out = manifest.get("photos", {}), manifest.get("held_out", {})
    if not trained:
        return subject
    photos = {photo: hash_file_once(photo) for photo in subject.photos + subject.held_out}
    differences = _describe_differences(
        trained | held_out, {photo.name: contents for photo, contents in photos.items()}
    )
    if differences:
        folder = subject.photos[0].parent
        raise UserError(f"{run.path} was trained on other photos than {folder} holds: {differences}; {advice}")
    return replace(subject, photos=_take(trained, photos), held_out=_take(held_out, photos))


def _take(recorded: dict[str, str], photos: dict[Path, str]) -> tuple[Path, ...]:
    """Returns the photos that are recorded, in the order of their recorded names, and removes them from `photos`."""
    taken = []
    for _, contents in sorted(recorded.items()):
        photo = next(photo for photo, found in photos.items() if found == contents)
        del photos[photo]
        taken.append(photo)
    return tuple(taken)


def _describe_differences(recorded: dict[str, str], now: dict[str, str]) -> str:
    """Returns `01.png has changed, 02.png is missing, new.png is new`; "" when the contents are the same."""
    same = {name for name, contents in recorded.items() if now.get(name) == contents}
    recorded, now = ({name: photos[name] for name in photos if name not in same} for photos in (recorded, now))
    old_names, new_names = _not_in(now.values(), recorded), _not_in(recorded.values(), now)
    found = [f"{name} has changed" for name in old_names if name in new_names]
    found += [f"{name} is missing" for name in old_names if name not in new_names]
    found += [f"{name} is new" for name in new_names if name not in old_names]
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return ", ".join(found[:_SHOWN]) + more


def _not_in(others: Iterable[str], photos: dict[str, str]) -> list[str]:
    """Returns the names of the photos whose contents the others lack; of twins, as many as are too many."""
    left, names = Counter(others), []
    for name, contents in photos.items():
        if left[contents]:
            left[contents] -= 1
        else:
            names.append(name)
    return names
