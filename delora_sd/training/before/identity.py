"""What makes two calls the same run: places are made absolute once, and what lies there is compared by contents."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from delora_sd.config.deciding import read_run_settings
from delora_sd.config.load import flatten, to_yaml
from delora_sd.config.overlay import with_settings
from delora_sd.data.captions import BESIDE, photo_prompts
from delora_sd.data.held_out import load_run_subject
from delora_sd.data.masks import find_masks
from delora_sd.data.recorded import recognise_subject
from delora_sd.data.subjects import MINIATURE, Subject
from delora_sd.diffusion.bases import find_base, place_of_base
from delora_sd.diffusion.families.family import Base
from delora_sd.errors import UserError
from delora_sd.files.contents import absolute_place, check_base, hash_file, hash_file_once
from delora_sd.files.run_folder import RunFolder, write_text
from delora_sd.settings import DataConfig, TrainConfig

_PLACES = {
    "data.photos": "photos",
    "data.dataset": "photos",
    "data.captions": "captions",
    "model.base": "base",
    "adapter.peft_config": "peft_config",
}
"""{setting that names a place: what the manifest knows of its contents}."""

_ADVICE = "bring back what it was begun with, or use another output_dir"


def resolve_places(config: TrainConfig) -> TrainConfig:
    """Returns the config with every path absolute, so that the run means the same from any folder; names stay names."""
    data, peft_config = config.data, config.adapter.peft_config
    if data.photos is not None:
        data = replace(data, photos=absolute_place(data.photos))
    elif data.dataset != MINIATURE:
        data = replace(data, dataset=absolute_place(data.dataset))
    if data.captions not in (None, BESIDE):
        data = replace(data, captions=absolute_place(data.captions))
    if peft_config is not None:
        peft_config = absolute_place(peft_config)
    return replace(
        config,
        data=data,
        model=replace(config.model, base=place_of_base(config.model.base)),
        adapter=replace(config.adapter, peft_config=peft_config),
    )


def is_compared_by_contents(key: str, value: Any, manifest: dict[str, Any]) -> bool:
    """True for a setting that names a place whose contents the manifest knows: it may have moved."""
    return isinstance(value, str) and os.path.isabs(value) and bool(manifest.get(_PLACES.get(key, "")))


def load_same_subject(run: RunFolder, config: TrainConfig) -> Subject:
    """Returns the subject of the settings, as the run knows it when it has begun.

    Raises:
        UserError: photos that cannot be used, or the run was begun with others.
    """
    return recognise_subject(run, load_run_subject(config), advice=_ADVICE)


def find_same_masks(run: RunFolder, config: TrainConfig, subject: Subject) -> tuple[Path, ...]:
    """Returns each trained photo's mask, as the run was begun with; () when the loss counts every place alike.

    Raises:
        UserError: a photo without a mask, or the run was begun with others.
    """
    if config.training.outside_weight == 1:
        return ()
    masks = find_masks(subject.photos)
    recorded = [contents for _, contents in sorted(run.read_manifest().get("masks", {}).items())]
    for photo, mask, before in zip(subject.photos, masks, recorded, strict=False):
        if hash_file_once(mask) != before:
            raise UserError(f"{mask}: not the mask of {photo.name} that {run.path} was begun with; {_ADVICE}")
    return masks


def find_same_prompts(run: RunFolder, config: TrainConfig, subject: Subject) -> tuple[str, ...]:
    """Returns what each photo is trained with, or the one text for all, as the run was begun with.

    Raises:
        UserError: captions that cannot be used, or the run was begun with others.
    """
    prompts = photo_prompts(config.data, subject)
    recorded = [text for _, text in sorted(run.read_manifest().get("captions", {}).items())]
    for photo, now, before in zip(subject.photos, prompts, recorded, strict=False):
        if now != before:
            raise UserError(f"caption of {photo.name}: '{now}', but {run.path} was begun with '{before}'; {_ADVICE}")
    return prompts


def recognise_base(run: RunFolder, config: TrainConfig, base: Base) -> None:
    """Raises UserError when the run was begun on a base, or with a PEFT configuration, of other contents."""
    check_base(run, name=base.name, fingerprint=base.fingerprint, advice=_ADVICE)
    known, file = run.read_manifest().get("peft_config"), config.adapter.peft_config
    if known and file is not None and hash_file(Path(file)) != known:
        raise UserError(f"adapter.peft_config={file}: not the file that {run.path} was begun with; {_ADVICE}")


def recognise_finished(run: RunFolder, config: TrainConfig) -> None:
    """Compares what a finished run was made from, as far as it is still there, and remembers where it moved to.

    Raises:
        UserError: other photos or another base than the run was made from.
    """
    before = resolve_places(read_run_settings(run.config))
    if config.data != before.data or _photo_folder(config.data).is_dir():
        subject = load_same_subject(run, config)
        find_same_masks(run, config, subject)
        find_same_prompts(run, config, subject)
    try:
        base = find_base(replace(config.model, offline=True))  # nothing is fetched to say that nothing is left to do
    except UserError:
        if config.model.base != before.model.base:
            raise
    else:
        recognise_base(run, config, base)
    old, new = flatten(before), flatten(config)
    if moved := {key: new[key] for key in _PLACES if new[key] != old[key]}:
        with run.lock():
            write_text(run.config, to_yaml(with_settings(before, moved, source="places")))


def _photo_folder(data: DataConfig) -> Path:
    if data.photos is not None:
        return Path(data.photos)
    if data.dataset == MINIATURE:
        from delora_sd.miniature import SUBJECTS_FOLDER

        return SUBJECTS_FOLDER
    return Path(data.dataset) / (data.subject or "")
