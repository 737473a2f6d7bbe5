"""Held-out references, ranks and copies: what separates learning from copying, on images whose truth is known."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from standins import draw_image, make_judge, write_run
from torch.nn.functional import normalize

from delora_eval.pages.run_page.page import render_run
from delora_eval.scoring.groups.crops import SIDES, window_boxes
from delora_eval.scoring.inputs.task import read_task
from delora_eval.scoring.judges.embedding import Judge
from delora_eval.scoring.measures.measure import EmbeddedImages, EmbeddedSubject
from delora_eval.scoring.measures.memorisation import find_copies, measure_held_out, real_gap
from delora_eval.scoring.measures.ranking import Candidate, measure_ranks
from delora_eval.scoring.record.score_lines import read_scores
from delora_eval.scoring.score import find_protocols, score_task
from delora_eval.settings import EncoderConfig, ScoreConfig
from delora_sd.cli.main import main
from delora_sd.config.load import load_config, to_yaml
from delora_sd.data.held_out import load_run_subject
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.run_folder import RunFolder, read_lines, write_json, write_lines, write_text
from delora_sd.settings import TrainConfig


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    return normalize(torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64), dim=-1)


def photos_around(centre: torch.Tensor, count: int, *, seed: int, spread: float = 0.6) -> torch.Tensor:
    """Photos of one subject: alike, each with something of its own."""
    return normalize(centre + spread * unit(count, len(centre), seed=seed), dim=-1)


def make_subject(images: torch.Tensor, photos: torch.Tensor, held_out: torch.Tensor) -> EmbeddedSubject:
    return EmbeddedSubject(
        name="rex",
        photos_dino=photos,
        photos_clip=photos,
        held_out_dino=held_out,
        held_out_clip=held_out,
        images=EmbeddedImages(dino=images, clip=images, prompts=torch.arange(len(images)) % 2),
    )


def test_held_out_scores_are_the_double_loop():
    photos, held_out, images = unit(4, 8, seed=1), unit(2, 8, seed=2), unit(6, 8, seed=3)
    scores = {score.name: score.total.value for score in measure_held_out(make_subject(images, photos, held_out))}

    def mean(left, right) -> float:
        return np.mean([float(a @ b) for a in left for b in right])

    real = np.mean([float(photos[i] @ photos[j]) for i in range(4) for j in range(4) if i != j]) - mean(
        photos, held_out
    )
    assert scores["dino_held_out"] == pytest.approx(mean(images, held_out), abs=1e-6)
    assert real_gap(photos, held_out) == pytest.approx(real, abs=1e-6)
    assert scores["memorised_dino"] == pytest.approx(mean(images, photos) - mean(images, held_out) - real, abs=1e-6)


def test_a_copier_is_told_from_a_learner_even_when_the_held_out_photo_is_odd():
    centre = unit(4096, seed=5)
    photos, odd = photos_around(centre, 5, seed=6), photos_around(centre, 1, seed=7, spread=1.2)
    learned, copied = photos_around(centre, 200, seed=8), photos.repeat(4, 1)
    of = {
        name: {s.name: s.total.value for s in measure_held_out(make_subject(images, photos, odd))}["memorised_dino"]
        for name, images in (("learned", learned), ("copied", copied))
    }
    assert real_gap(photos, odd) > 0.03
    assert abs(of["learned"]) < 0.02 and of["copied"] > 0.03


def test_nothing_held_out_means_no_held_out_score():
    photos = unit(3, 8)
    subject = EmbeddedSubject(
        name="rex",
        photos_dino=photos,
        photos_clip=photos,
        images=EmbeddedImages(dino=photos, clip=photos, prompts=torch.zeros(3, dtype=torch.int64)),
    )
    assert measure_held_out(subject) == []


def test_ranks_are_the_loop_over_subjects_and_know_the_class_word():
    names = {"cat": "cat", "cat2": "cat", "dog": "dog", "can": "can"}
    gallery = {
        name: Candidate(photos=unit(3 + index, 16, seed=index), class_word=word)
        for index, (name, word) in enumerate(names.items())
    }
    images, prompts = unit(30, 16, seed=9), torch.arange(30) % 3
    scores = {score.name: score for score in measure_ranks("cat", images, prompts, gallery)}
    for prefix, among in (("", list(names)), ("class_", ["cat", "cat2"])):
        ranks = []
        for image in images:
            means = {name: np.mean([float(image @ photo) for photo in gallery[name].photos]) for name in among}
            ranks.append(1 + sum(value >= means["cat"] for name, value in means.items() if name != "cat"))
        assert scores[f"{prefix}rank_top1"].total.value == pytest.approx(np.mean([r == 1 for r in ranks]), abs=1e-6)
        assert scores[f"{prefix}rank_mrr"].total.value == pytest.approx(np.mean([1 / r for r in ranks]), abs=1e-6)
        assert scores[f"{prefix}rank_top1"].details == {"candidates": len(among)}


def test_a_subject_without_a_rival_has_no_rank():
    images, prompts = unit(4, 8), torch.zeros(4, dtype=torch.int64)
    lonely = {"cat": Candidate(photos=unit(3, 8), class_word="cat")}
    assert measure_ranks("cat", images, prompts, lonely) == []
    stranger = lonely | {"can": Candidate(photos=unit(3, 8, seed=2), class_word="can")}
    assert {score.name for score in measure_ranks("cat", images, prompts, stranger)} == {"rank_top1", "rank_mrr"}


def test_windows_cover_the_image_at_every_size():
    counts = [len(window_boxes(side)) for side in SIDES]
    assert counts == [1, 4, 9, 25]
    for side in SIDES[1:]:
        lefts = sorted({left for left, _ in window_boxes(side)})
        assert lefts[0] == 0 and lefts[-1] + side == pytest.approx(1)
        assert all(second - first <= side / 2 + 1e-9 for first, second in pairwise(lefts))


def test_a_copied_part_is_found_wherever_it_lies_and_the_photo_is_named():
    photos, images = unit(3, 4, 512, seed=1), unit(5, 4, 512, seed=2)
    images[2, 0] = photos[1, 3]
    (copy,) = find_copies([photos], [images], [0.5])
    assert (copy.image, copy.photo, copy.side) == (2, 1, 0.5) and copy.similarity == pytest.approx(1)


def test_what_the_photos_share_among_themselves_is_no_copy():
    wall = unit(512, seed=3)
    photos, images = unit(3, 4, 512, seed=1), unit(5, 4, 512, seed=2)
    photos[0, 0] = photos[1, 2] = images[4, 1] = wall
    assert find_copies([photos], [images], [0.5]) == []


def test_an_honest_image_may_be_as_near_to_a_photo_as_photos_are_to_each_other():
    """Among five photos the sixth is, one time in three, nearer to one of them than any two of the five."""
    centre, wrong = unit(256, seed=1), 0
    for seed in range(50):
        photos = photos_around(centre, 5, seed=2 * seed)[:, None]
        images = photos_around(centre, 4, seed=2 * seed + 1)[:, None]
        wrong += len(find_copies([photos], [images], [1.0]))
        assert len(find_copies([photos], [torch.cat([images, photos[2:3]])], [1.0])) >= 1
    assert wrong == 0


@pytest.fixture
def divided_run(tmp_path: Path) -> Path:
    """A run that holds one of four photos out."""
    run = write_run(tmp_path)
    draw_image(tmp_path / "photos" / "3.png", seed=103)
    config = load_config(TrainConfig, [run / "config.yaml"], ["data.hold_out=1"])
    write_text(run / "config.yaml", to_yaml(config))
    subject = load_run_subject(config)
    trained, held_out = (
        {photo.name: hash_file(photo) for photo in photos} for photos in (subject.photos, subject.held_out)
    )
    write_json(run / "manifest.json", {"format": 1, "photos": trained, "held_out": held_out})
    return run


def score_lines(config: ScoreConfig) -> list[dict]:
    task = read_task(config)
    return score_task(make_judge(), find_protocols(config, task), task)


def totals(lines: list[dict], name: str = "main") -> dict[str, dict]:
    return {line["score"]: line for line in lines if line["set"] == name and line["prompt"] is None}


def test_a_run_that_holds_out_is_scored_against_both_sides(divided_run: Path):
    lines = score_lines(ScoreConfig(run=str(divided_run), protocol=("miniature",)))
    found = totals(lines)
    assert (found["dino"]["photos"], found["dino_held_out"]["photos"]) == (3, 1)
    assert found["dino"]["pairs"] == 12 and found["dino_held_out"]["pairs"] == 4
    real = totals(lines, "reference photos")
    assert found["memorised_dino"]["real_gap"] == pytest.approx(
        real["real_dino"]["value"] - real["real_dino_held_out"]["value"], abs=2e-6
    )
    assert {"clip_i_held_out", "memorised_clip_i"} <= found.keys()
    assert not {"dino_held_out", "memorised_dino"} & totals(lines, "class").keys()


@pytest.fixture(scope="module")
def rendered_run(tmp_path_factory) -> Path:
    """Six renders of one unseen identity as photos, one held out; fresh renders as images, and two copies.

    `00-s0` is a trained photo; `01-s1` a fresh render into which a third of another photo's side was pasted.
    """
    from delora_sd.miniature.world.render import render
    from delora_sd.miniature.world.things.identity import draw_identity
    from delora_sd.miniature.world.things.scene import draw_scene

    folder = tmp_path_factory.mktemp("rendered")
    rng = np.random.default_rng(11)
    identity = draw_identity(rng, held_out=True)
    run = write_run(folder)
    shutil.rmtree(folder / "photos")
    (folder / "photos").mkdir()
    for index in range(6):
        render(draw_scene(rng, identity)).save(folder / "photos" / f"{index}.png")
    for file in sorted((run / "images" / "main").glob("*.png")):
        render(draw_scene(rng, identity)).save(file)
    config = load_config(TrainConfig, [run / "config.yaml"], ["data.hold_out=1"])
    write_text(run / "config.yaml", to_yaml(config))
    photos = load_run_subject(config).photos
    shutil.copyfile(photos[1], run / "images" / "main" / "00-s0.png")
    patched = Image.open(run / "images" / "main" / "01-s1.png")
    patched.paste(Image.open(photos[2]).crop((0, 0, 32, 32)), (32, 32))
    patched.save(run / "images" / "main" / "01-s1.png")
    return run


def test_copies_are_found_and_listed_beside_the_photo_they_repeat(rendered_run: Path):
    config = ScoreConfig(run=str(rendered_run), protocol=("miniature",), copy_risk=True)
    task = read_task(config)
    lines = score_task(Judge(config=EncoderConfig()), find_protocols(config, task), task)
    risk = totals(lines)["copy_risk"]
    photos = load_run_subject(load_config(TrainConfig, [rendered_run / "config.yaml"], [])).photos
    found = {copy["image"]: copy for copy in risk["copies"]}
    assert found["00-s0.png"]["photo"] == photos[1].name and found["00-s0.png"]["side"] == 1
    assert found["01-s1.png"]["photo"] == photos[2].name and found["01-s1.png"]["side"] < 1
    assert found.keys() == {"00-s0.png", "01-s1.png"} and risk["value"] == 0.5
    page = render_run(RunFolder(rendered_run), images_per_prompt=2, thumbnail_px=64)
    section = page[page.index('id="copies"') : page.index('id="training"')]
    assert section.count("<img ") == 4 and f"00-s0.png and photo {photos[1].name}: the whole image" in section


def test_a_run_that_copies_has_memorised_and_one_that_learned_has_not(rendered_run: Path, tmp_path: Path):
    """mini-clip sees the place a photo was taken in, mini-dino only who is on it: the first notices a copy."""
    photos = load_run_subject(load_config(TrainConfig, [rendered_run / "config.yaml"], [])).photos
    copier = Path(shutil.copytree(rendered_run, tmp_path / "copier"))
    for file, photo in zip(sorted((copier / "images" / "main").glob("*.png")), photos, strict=False):
        shutil.copyfile(photo, file)
    values = {}
    for name, run in (("learned", rendered_run), ("copied", copier)):
        config = ScoreConfig(run=str(run), protocol=("miniature",), output=str(tmp_path / f"{name}.jsonl"))
        task = read_task(config)
        lines = score_task(Judge(config=EncoderConfig()), find_protocols(config, task), task)
        values[name] = totals(lines)["memorised_clip_i"]["value"]
    assert values["copied"] > 0.05 and values["copied"] > values["learned"] + 0.05


def test_the_paper_s_protocol_stays_without_held_out_photos(tmp_path: Path):
    found = totals(score_lines(ScoreConfig(run=str(write_run(tmp_path)), protocol=("miniature",))))
    assert found["dino"]["photos"] == 3
    assert not any("held_out" in name or "memorised" in name or "rank" in name or "risk" in name for name in found)


def test_photos_that_came_since_the_training_are_not_taken_for_held_out_ones(divided_run: Path):
    draw_image(divided_run.parent / "photos" / "4.png", seed=104)
    with pytest.raises(UserError, match=r"trained on other photos than .*: 4\.png is new"):
        read_task(ScoreConfig(run=str(divided_run)))


def test_two_folders_are_ranked_and_held_out_without_any_run(tmp_path: Path):
    for seed, name in enumerate(("cat", "cat2", "dog")):
        for index in range(3):
            draw_image(tmp_path / "photos" / name / f"{index}.png", seed=10 * seed)
            draw_image(tmp_path / "unseen" / name / f"{index}.png", seed=10 * seed)
            draw_image(tmp_path / "made" / name / f"{index}.png", seed=10 * seed)
    table = tmp_path / "scores.csv"
    config = ScoreConfig(
        reference=str(tmp_path / "photos"),
        generated=str(tmp_path / "made"),
        held_out=str(tmp_path / "unseen"),
        protocol=("miniature",),
    )
    lines = [line for line in score_lines(config) if line["prompt"] is None]
    top1 = {line["subject"]: line["value"] for line in lines if line["score"] == "rank_top1"}
    assert top1 == {"cat": 1, "cat2": 1, "dog": 1, None: 1}
    in_class = {line["subject"] for line in lines if line["score"] == "class_rank_top1"}
    assert in_class == {"cat", "cat2", None}
    assert {line["subject"] for line in lines if line["score"] == "dino_held_out"} == {"cat", "cat2", "dog", None}
    assert main([
        "score", f"reference={tmp_path / 'photos'}", f"generated={tmp_path / 'made'}", "protocol=[miniature]",
        f"table={table}",
    ]) == 0  # fmt: skip
    header, *rows = table.read_text().splitlines()
    assert header.startswith("set,subject,protocol,score,value") and any(",rank_top1," in row for row in rows)
    assert main(["score", f"reference={tmp_path / 'photos'}", f"generated={tmp_path / 'made'}", "table=x.xlsx"]) == 2


def test_a_gallery_of_one_is_said_instead_of_a_perfect_rank(divided_run: Path, tmp_path: Path):
    folder = tmp_path / "gallery"
    folder.mkdir()
    shutil.copytree(tmp_path / "photos", folder / "photos")
    (folder / "classes.csv").write_text("subject_name,class\nphotos,dog\n")
    with pytest.warns(UserWarning, match="cannot be ranked among one"):
        found = totals(score_lines(ScoreConfig(run=str(divided_run), gallery=str(folder), protocol=("miniature",))))
    assert not any("rank" in name for name in found)


def test_scores_as_json_are_those_of_the_lines(divided_run: Path, tmp_path: Path):
    file = tmp_path / "scores.json"
    assert main(["score", str(divided_run), "protocol=[miniature]", f"table={file}"]) == 0
    rows = json.loads(file.read_text())["scores"]
    lines = [line for line in read_lines(divided_run / "scores.jsonl") if line["prompt"] is None]
    assert [row["value"] for row in rows] == [line["value"] for line in lines]


def test_a_listed_copy_that_is_no_name_in_a_folder_is_refused(rendered_run: Path, tmp_path: Path):
    config = ScoreConfig(run=str(rendered_run), protocol=("miniature",), output=str(tmp_path / "scores.jsonl"))
    score_lines(config)
    lines = read_lines(tmp_path / "scores.jsonl")
    copy = {"image": "../../secret.png", "photo": "0.png", "similarity": 1.0, "threshold": 0.9, "side": 1.0}
    for copies, says in (([copy], "no name of an image"), ({}, "is no list"), ([{"image": "0.png"}], "'photo'")):
        write_lines(tmp_path / "scores.jsonl", [lines[0] | {"copies": copies}])
        with pytest.raises(UserError, match=says):
            read_scores(tmp_path / "scores.jsonl")
