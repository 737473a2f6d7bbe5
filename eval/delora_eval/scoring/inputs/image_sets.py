"""What there is to judge: the image sets of a run folder, or folders of images made anywhere."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from delora_eval.scoring.inputs.identifier import read_prompt, without_identifier
from delora_eval.scoring.judges.networks.preprocessing import list_images, natural_order
from delora_sd.config.text import lines_of, read_text
from delora_sd.data.photo_files import find_photos, list_files, warn_of_left_out
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.run_folder import RunFolder, read_json
from delora_sd.generation.requests import LISTING, read_listing


@dataclass(frozen=True, kw_only=True)
class JudgedImage:
    """One generated image and what decided it."""

    file: Path
    prompt: str = ""
    """Empty when nobody knows it."""
    template: str = ""
    prompt_index: int = 0
    seed: int = 0
    names_subject: bool = True
    """False: a class prompt, without the identifier."""
    text: str = ""
    """The prompt without the identifier: what an encoder that never met the identifier can read."""
    settings: tuple[tuple[str, Any], ...] = ()
    """Sampling settings; two images are comparable when these are equal."""


@dataclass(frozen=True, kw_only=True)
class JudgedSet:
    """Images of one subject made alike; either all of their prompts name the subject, or none."""

    name: str
    subject: str
    images: tuple[JudgedImage, ...]
    step: int | None = None
    strength: float | None = None
    is_base: bool = False
    """True: no adapter took part; the base model's own images."""
    base: str | None = None
    adapter: str | None = None
    """Hash of the adapter's files."""
    average: str | None = None
    """Which average of the run's adapter; None: as trained."""
    others: int = 0
    """How many more adapters were added on top."""
    random_weights: bool = False
    """True: the base model was untrained; its images mean nothing."""

    @property
    def names_subject(self) -> bool:
        return self.images[0].names_subject

    def step_of(self, last: int) -> int:
        """Returns the training step that drew it, 0 for the base model, `last` for the final adapter."""
        return 0 if self.is_base else last if self.step is None else self.step


SAMPLING = ("num_inference_steps", "guidance", "negative_prompt", "size_px", "base")


def read_run_sets(run: RunFolder, *, subject: str, identifier: str, names: Sequence[str] = ()) -> list[JudgedSet]:
    """Returns the image sets of a run, by name.

    Raises:
        UserError: no images yet, an unknown set, or a listed image that is not there.
    """
    folders = sorted(path.parent for path in run.images.glob(f"*/{LISTING}"))
    known = tuple(folder.name for folder in folders)
    if not known:
        raise UserError(f"{run.path}: no images to score; make them with `delora-sd generate {run.path}`")
    for name in names:
        if not any(_is_called(each, name) for each in known):
            raise UserError(f"sets={name}: no such image set in {run.images}{nearest_name(name, known)}")
    asked = [folder for folder in folders if not names or any(_is_called(folder.name, name) for name in names)]
    sets = [_read_set(folder, subject, identifier) for folder in asked]
    return [part for each in sets for part in _split(each)]


def _is_called(folder: str, name: str) -> bool:
    """`final-1a2b3c4d` is called so, and `final` with every other set of the final adapter."""
    return name in (folder, folder.rpartition("-")[0])


def read_shown_sets(run: RunFolder, *, subject: str, identifier: str) -> list[JudgedSet]:
    """Returns the image sets of a run that a page can show, by name, [] before there are any.

    Files may be missing, prompts that name the subject and others stand in one set.
    """
    folders = sorted(path.parent for path in run.images.glob(f"*/{LISTING}"))
    sets = [_read_listed(folder, subject, identifier) for folder in folders]
    return [each for each in sets if each.images]


def read_folder_sets(folder: Path, subjects: Sequence[str], *, identifier: str, prompts: str | None) -> list[JudgedSet]:
    """Returns one set per subject from a folder of images made anywhere.

    One subject: the images lie in the folder, or in one named after it. More: folders `dog` or `dog-7` (OFT's).
    """
    if not folder.is_dir():
        raise UserError(f"generated={folder}: no such folder")
    if (folder / LISTING).exists():
        if len(subjects) > 1:
            raise UserError(f"generated={folder}: images of one subject, but reference has {len(subjects)} subjects")
        return _split(_read_set(folder, subjects[0], identifier))
    if len(subjects) == 1 and list_images(folder):
        files = list_images(folder)
        warn_of_left_out(folder, list_files(folder), len(files))
        return [_loose_set(folder, subjects[0], files, identifier, prompts)]
    return [_subject_folders(folder, subject, subjects, identifier, prompts) for subject in subjects]


def read_reference(folder: Path) -> dict[str, tuple[Path, ...]]:
    """Returns {subject: photos}: the folder's own photos, or those of each folder in it."""
    if not folder.is_dir():
        raise UserError(f"reference={folder}: no such folder")
    if list_images(folder):
        return {folder.resolve().name: find_photos(folder)}
    inner = [path for path in list_files(folder) if path.is_dir() and list_images(path)]
    if not inner:
        raise UserError(f"reference={folder}: no photos (.jpg, .png, .webp) in it, nor in folders in it")
    return {path.name: find_photos(path) for path in inner}


def _read_set(folder: Path, subject: str, identifier: str) -> JudgedSet:
    images = _read_listed(folder, subject, identifier)
    missing = [image.file.name for image in images.images if not image.file.is_file()]
    if missing:
        raise UserError(
            f"{folder}: {len(missing)} of {len(images.images)} listed images are missing ({missing[0]}, ...); "
            "run the same `delora-sd generate` again to make them"
        )
    return images


def _read_listed(folder: Path, subject: str, identifier: str) -> JudgedSet:
    """The one reader of images.jsonl for whoever judges or shows images."""
    lines = read_listing(folder / LISTING)
    first = lines[0] if lines else {}
    return JudgedSet(
        name=folder.name,
        subject=subject,
        images=tuple(_read_image(folder, line, identifier) for line in lines),
        step=first.get("step"),
        average=first.get("average"),
        others=len(first.get("extra_adapters", {})),
        strength=first.get("strength"),
        is_base=first.get("strength") == 0 and not first.get("extra_adapters"),
        base=first.get("base"),
        adapter=first.get("adapter"),
        random_weights=any(line.get("random_weights", False) for line in lines),
    )


def _split(images: JudgedSet) -> list[JudgedSet]:
    """Returns the set; when its prompts are mixed, the class prompts become a set of their own. Empty sets vanish."""
    named = tuple(image for image in images.images if image.names_subject)
    plain = tuple(image for image in images.images if not image.names_subject)
    name = f"{images.name} (class prompts)" if named else images.name
    parts = [replace(images, images=named), replace(images, name=name, images=plain)]
    return [part for part in parts if part.images]


def _read_image(folder: Path, line: dict[str, Any], identifier: str) -> JudgedImage:
    prompt = line.get("prompt", "")
    template = line.get("template", "")
    names_subject, text = read_prompt(prompt, template, identifier)
    return JudgedImage(
        file=folder / line["file"],
        prompt=prompt,
        template=template,
        prompt_index=line.get("prompt_index", 0),
        seed=line.get("seed", 0),
        names_subject=names_subject or not prompt,
        text=text,
        settings=tuple((key, line.get(key)) for key in SAMPLING),
    )


def _subject_folders(
    folder: Path, subject: str, subjects: Sequence[str], identifier: str, prompts: str | None
) -> JudgedSet:
    """`dog` and `dog-7`, but never `backpack_dog-7`: names are matched whole."""
    inner = [path for path in natural_order(list_files(folder)) if path.is_dir() and _is_of(path.name, subject)]
    for path in inner:
        warn_of_left_out(path, list_files(path), len(list_images(path)))
    files = [file for path in inner for file in list_images(path)]
    if not files:
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise UserError(
            f"generated={folder}: no images of subject '{subject}' (expected a folder {subject}, "
            f"as in reference); found {found}"
        )
    if len(inner) == 1 and (inner[0] / LISTING).exists():
        return _read_set(inner[0], subject, identifier)
    return _loose_set(folder, subject, files, identifier, prompts)


def _is_of(folder: str, subject: str) -> bool:
    stem, dash, index = folder.rpartition("-")
    return folder == subject or (bool(dash) and stem == subject and index.isdigit())


def _loose_set(folder: Path, subject: str, files: list[Path], identifier: str, prompts: str | None) -> JudgedSet:
    texts = _read_prompts(Path(prompts).expanduser(), folder, files) if prompts else [""] * len(files)
    order = {text: index for index, text in enumerate(dict.fromkeys(texts))}
    images = tuple(
        JudgedImage(
            file=file,
            prompt=text,
            template=text,
            prompt_index=order[text],
            text=without_identifier(text, identifier),
        )
        for file, text in zip(files, texts, strict=True)
    )
    return JudgedSet(name=folder.resolve().name, subject=subject, images=images)


def _read_prompts(source: Path, folder: Path, files: list[Path]) -> list[str]:
    """Returns each image's prompt, from {image: prompt} or from one line per image."""
    if source.suffix == ".json":
        table = read_json(source)
        names = [file.relative_to(folder).as_posix() for file in files]
        missing = [name for name in names if not isinstance(table, dict) or not isinstance(table.get(name), str)]
        if missing:
            raise UserError(f"prompts={source}: no prompt for {len(missing)} images, such as '{missing[0]}'")
        return [table[name] for name in names]
    try:
        lines = lines_of(read_text(source))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"prompts={source}: cannot be read ({error})") from None
    if len(lines) != len(files):
        raise UserError(f"prompts={source}: {len(lines)} lines for {len(files)} images; expected one per image")
    return lines
