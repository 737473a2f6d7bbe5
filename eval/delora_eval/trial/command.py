"""`delora-sd judges DATASET`: every judge on real photos, as a table, a figure and files."""

import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from delora_eval.pages.tables import render_csv, render_latex, render_markdown, render_text
from delora_eval.scoring.judges.embedding import Judge, embed_images, embed_texts, use_weights
from delora_eval.scoring.judges.family import FAMILY
from delora_eval.scoring.judges.protocols import View
from delora_eval.scoring.record.summary import RANDOM_STAMP
from delora_eval.settings import JudgesConfig
from delora_eval.trial.galleries import PhotoSet, dataset_photos, render_lookalikes
from delora_eval.trial.ratings import Agreement, Rated, agree, read_ratings
from delora_eval.trial.verdict_table import verdict_figure, verdict_table
from delora_eval.trial.verdicts import Verdict, find_views, try_judge
from delora_sd.data.masks import find_masks
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_bytes, write_json, write_text


def print_judges(config: JudgesConfig) -> None:
    """Tries the judges, prints the table, and writes the files where asked to."""
    verdicts = try_judges(config)
    table = verdict_table(verdicts, dataset=config.dataset)
    print(render_text(table))
    if any(verdict.is_random for verdict in verdicts):
        print(RANDOM_STAMP)
    if config.output:
        _write(Path(config.output).expanduser(), config, verdicts)
        print(f"table and figure: {config.output}")


def try_judges(config: JudgesConfig) -> list[Verdict]:
    """Returns one verdict per judge.

    Raises:
        UserError: unknown judges, missing weights, too few subjects, or ratings that cannot be read.
    """
    views = find_views(config.judges, dataset=config.dataset)
    _check(config)
    photos = dataset_photos(config.dataset)
    ratings = {}
    if config.ratings:
        folders = (Path(config.ratings).expanduser(), Path(config.samples or "").expanduser())
        ratings = {question: read_ratings(*folders, question) for question in ("cp", "pf")}
    judge = Judge(config=config.encoders)
    for view in views.values():
        use_weights(judge, view.encoder)  # missing weights are said before any photo is read
    if any(FAMILY[name].kind == "patches" for name in views):
        find_masks(photos.files)
    with tempfile.TemporaryDirectory() as folder:
        lookalikes = render_lookalikes(Path(folder), config.lookalikes) if config.lookalikes else None
        return [_try(judge, name, view, photos, lookalikes, ratings) for name, view in views.items()]


def _check(config: JudgesConfig) -> None:
    if config.lookalikes and config.dataset != "miniature":
        raise UserError(f"lookalikes={config.lookalikes}: only dataset=miniature can render them, not {config.dataset}")
    if config.lookalikes < 0 or config.lookalikes == 1:
        raise UserError(f"lookalikes={config.lookalikes}: expected 0, or at least 2 pairs")
    if bool(config.ratings) != bool(config.samples):
        raise UserError("ratings and samples belong together: give both folders of DreamBench++, or neither")


def _try(
    judge: Judge, name: str, view: View, photos: PhotoSet, lookalikes: PhotoSet | None, ratings: dict[str, list]
) -> Verdict:
    found = {}
    if FAMILY[name].kind == "vectors":  # the rated images come without masks
        found["cp"] = agree(ratings.get("cp", []), lambda rated: _likeness(judge, view, rated))
    if FAMILY[name].kind == "vectors" and FAMILY[name].prompt:
        found["pf"] = agree(ratings.get("pf", []), lambda rated: _obedience(judge, view, rated))
    agreement: dict[str, Agreement] = {question: value for question, value in found.items() if value is not None}
    return try_judge(judge, name, view, photos, lookalikes, agreement)


def _likeness(judge: Judge, view: View, rated: tuple[Rated, ...]) -> np.ndarray:
    """Cosine of every image and its reference."""
    (images,) = embed_images(judge, [item.image for item in rated], [view])
    (references,) = embed_images(judge, [item.reference for item in rated], [view])
    return (images.double() * references.double()).sum(dim=1).numpy()


def _obedience(judge: Judge, view: View, rated: tuple[Rated, ...]) -> np.ndarray:
    """Cosine of every image and its prompt."""
    (images,) = embed_images(judge, [item.image for item in rated], [view])
    try:
        prompts = [item.prompt.read_text(encoding="utf-8").splitlines()[0].strip() for item in rated]
    except (OSError, UnicodeDecodeError, IndexError) as error:
        raise UserError(f"samples: a prompt cannot be read ({error})") from None
    return (images.double() * embed_texts(judge, view.encoder, prompts).double()).sum(dim=1).numpy()


def _write(folder: Path, config: JudgesConfig, verdicts: list[Verdict]) -> None:
    table, figure = verdict_table(verdicts, dataset=config.dataset), verdict_figure(verdicts, dataset=config.dataset)
    write_text(folder / "judges.md", render_markdown(table))
    write_text(folder / "judges.csv", render_csv(table))
    write_text(folder / "judges.tex", render_latex(table))
    write_json(folder / "judges.json", {"dataset": config.dataset, "judges": [_record(each) for each in verdicts]})
    write_bytes(folder / "judges.svg", figure.svg)
    write_bytes(folder / "judges.png", figure.png)


def _record(verdict: Verdict) -> dict[str, Any]:
    return asdict(verdict)
