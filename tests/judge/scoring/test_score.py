"""`delora-sd score` on run folders and on any two folders, with stand-in encoders."""

import json
import math
import os
import signal
from pathlib import Path

import pytest
import torch
from PIL import Image
from standins import PROMPTS, draw_image, make_judge, write_run, write_set

from delora_eval.scoring import score
from delora_eval.scoring.inputs.task import read_task
from delora_eval.scoring.judges.protocols import PROTOCOLS, combinations, find_protocol
from delora_eval.scoring.measures.measure import EmbeddedImages, EmbeddedSubject, measure_fidelity
from delora_eval.scoring.measures.metrics import pool
from delora_eval.scoring.protocol_table import real_rows, render_rows
from delora_eval.scoring.record.score_lines import ScoreLine
from delora_eval.scoring.record.summary import render_scores
from delora_eval.scoring.score import find_protocols, score_task
from delora_eval.settings import ScoreConfig
from delora_sd.data.subjects import load_subject, subject_names
from delora_sd.errors import UserError
from delora_sd.files.locks import hold
from delora_sd.files.run_folder import read_lines
from delora_sd.settings import DataConfig
from delora_sd.signals import Stopped


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return write_run(tmp_path)


def score_lines(config: ScoreConfig, judge=None) -> list[dict]:
    task = read_task(config)
    return score_task(judge or make_judge(), find_protocols(config, task), task)


def find(lines: list[dict], **wanted) -> dict:
    (line,) = [line for line in lines if all(line[key] == value for key, value in wanted.items())]
    return line


def test_every_number_carries_protocol_encoder_weights_and_counts(run):
    lines = score_lines(ScoreConfig(run=str(run), protocol=("oft",)))
    total = find(lines, set="main", score="dino", prompt=None)
    assert (total["pairs"], total["images"], total["photos"]) == (12, 4, 3)
    assert (total["protocol"], total["encoder"], total["weights"]) == ("oft", "dino/vit-s-16", "0123456789abcdef")
    assert find(lines, set="main", score="clip_t", prompt=None)["encoder"] == "clip/vit-l-14"
    assert (total["random_weights"], total["random_base"], total["base"]) == (False, False, "tiny")
    per_prompt = [line for line in lines if line["set"] == "main" and line["score"] == "dino" and line["prompt"]]
    assert [line["prompt"] for line in per_prompt] == ["a qwe dog in the snow", "a qwe dog on the beach"]
    assert sum(line["value"] for line in per_prompt) / 2 == pytest.approx(total["value"], abs=2e-6)


def test_sets_that_are_scored_survive_a_stop_and_the_rest_follows(run, tmp_path, monkeypatch):
    config, sets = ScoreConfig(run=str(run), protocol=("miniature",)), []

    def score_some(*arguments, **keywords):
        if len(sets) == 2:
            raise Stopped(signal.SIGTERM)
        sets.append(arguments)
        return genuine(*arguments, **keywords)

    genuine = score.score_group
    with monkeypatch.context() as patch:
        patch.setattr(score, "score_group", score_some)
        with pytest.raises(Stopped):
            score_lines(config)
    kept = read_lines(run / "scores.jsonl")
    assert len({line["set"] for line in kept}) == 3  # the photos and two of three sets
    resumed = score_lines(config)
    assert resumed[: len(kept)] == kept
    undisturbed = score_lines(ScoreConfig(run=str(run), protocol=("miniature",), output=str(tmp_path / "all.jsonl")))
    assert resumed == undisturbed


def test_a_second_scorer_is_told_who_is_at_work(run, capsys):
    lock = hold(run / ".scores.jsonl.lock", guarding=run / "scores.jsonl", setting="output")
    with lock, pytest.raises(UserError, match=f"scores.jsonl is in use by process {os.getpid()} on .* another output"):
        score.score(ScoreConfig(run=str(run), protocol=("miniature",)))


def test_each_set_gets_the_scores_its_prompts_allow(run):
    lines = score_lines(ScoreConfig(run=str(run), protocol=("miniature",)))
    found = {name: {line["score"] for line in lines if line["set"] == name} for name in ("main", "class", "class-base")}
    words = {"clip_t", "context_accuracy", "class_accuracy"}
    assert found["main"] == words | {"dino", "clip_i", "diversity_dino", "nearest_dino", "copy_rate"}
    assert found["class"] == words | {"drift_dino", "drift_clip_i", "pres"}
    assert found["class-base"] == words | {"pres"}
    context = find(lines, set="main", score="context_accuracy", prompt=None)
    assert context["candidates"] == 25, "the benchmark's prompts are judged among all 25, also when two were made"
    assert find(lines, set="main", score="class_accuracy", prompt=None)["candidates"] == 15


def test_drift_compares_with_the_base_models_image_of_the_same_prompt_and_seed(run):
    """class starts at image 50, class-base at 53: no image is the same, so drift is not zero."""
    lines = score_lines(ScoreConfig(run=str(run)))
    assert find(lines, set="class", score="drift_dino", prompt=None)["value"] > 0.001
    write_set(run, "class-base", [t.replace("{identifier} ", "") for t in PROMPTS], strength=0.0, first_image=50)
    lines = score_lines(ScoreConfig(run=str(run)))
    assert find(lines, set="class", score="drift_dino", prompt=None)["value"] == pytest.approx(0, abs=1e-6)


def test_scoring_again_changes_no_byte_and_loads_no_model(run):
    score_lines(ScoreConfig(run=str(run), protocol=("dreambooth", "oft")))
    file = run / "scores.jsonl"
    before = (file.read_bytes(), file.stat().st_mtime_ns)
    judge = make_judge()
    judge.encoders.clear()
    score_lines(ScoreConfig(run=str(run), protocol=("dreambooth", "oft")), judge)
    assert (file.read_bytes(), file.stat().st_mtime_ns) == before
    assert not judge.encoders


def test_new_images_are_scored_anew_and_replace_the_old_lines(run):
    score_lines(ScoreConfig(run=str(run)))
    write_set(run, "main", PROMPTS, per_prompt=3)
    lines = score_lines(ScoreConfig(run=str(run)))
    assert find(lines, set="main", score="dino", prompt=None)["images"] == 6
    keys = [(line["set"], line["protocol"], line["score"], line["prompt"]) for line in lines]
    assert len(keys) == len(set(keys))


def test_another_protocol_adds_lines_and_keeps_the_first(run):
    first = score_lines(ScoreConfig(run=str(run)))
    both = score_lines(ScoreConfig(run=str(run), protocol=("oft",)))
    assert [line for line in both if line["protocol"] == "dreambooth"] == first


def test_the_identifier_is_read_by_clip_only_under_its_option(run):
    plain = score_lines(ScoreConfig(run=str(run)))
    with_token = score_lines(ScoreConfig(run=str(run), clip_t_identifier=True))
    line = find(with_token, set="main", score="clip_t", prompt=None, protocol="dreambooth+identifier")
    assert line["value"] != find(plain, set="main", score="clip_t", prompt=None)["value"]


def test_random_weights_are_stamped_on_every_number(run):
    lines = score_lines(ScoreConfig(run=str(run)), make_judge(is_random=True))
    assert all(line["random_weights"] and line["weights"] == "random" for line in lines)
    table = render_scores(lines)
    assert all("RANDOM" in row for row in table.splitlines()[1:])


def test_a_missing_image_is_named_before_anything_is_scored(run):
    (run / "images/main/00-s0.png").unlink()
    with pytest.raises(UserError, match=r"1 of 4 listed images are missing \(00-s0.png"):
        read_task(ScoreConfig(run=str(run)))


def test_a_damaged_image_is_named_and_nothing_is_written(run):
    file = run / "images/main/01-s1.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(UserError, match=r"01-s1\.png.*delete it and run `delora-sd generate` again"):
        score_lines(ScoreConfig(run=str(run)))
    assert not (run / "scores.jsonl").exists()


def test_black_images_are_left_out_by_oft_and_scored_by_dreambooth_with_a_warning(run):
    Image.new("RGB", (32, 32)).save(run / "images/main/00-s0.png")
    with pytest.warns(UserWarning, match="1 of 4 images of photos are black") as caught:
        lines = score_lines(ScoreConfig(run=str(run), protocol=("oft", "dreambooth")))
    assert [part in str(w.message) for w, part in zip(caught, ("left out", "scored as they are"), strict=True)]
    totals = {p: find(lines, set="main", score="dino", prompt=None, protocol=p) for p in ("oft", "dreambooth")}
    assert (totals["oft"]["images"], totals["dreambooth"]["images"]) == (3, 4)
    assert totals["oft"]["num_black"] == 1


def test_a_run_without_images_says_which_command_makes_them(run, tmp_path):
    for listing in run.glob("images/*/images.jsonl"):
        listing.unlink()
    with pytest.raises(UserError, match="delora-sd generate"):
        read_task(ScoreConfig(run=str(run)))
    with pytest.raises(UserError, match="not a run folder"):
        read_task(ScoreConfig(run=str(tmp_path / "photos")))


def test_unknown_set_names_the_nearest(run):
    with pytest.raises(UserError, match="did you mean 'main'"):
        read_task(ScoreConfig(run=str(run), sets=("mian",)))


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Photos of `dog` and `backpack_dog`, and images in folders as oft-db names them."""
    for name, photos, images in (("dog", 2, 2), ("backpack_dog", 3, 1)):
        for i in range(photos):
            draw_image(tmp_path / "photos" / name / f"{i}.png", seed=len(name) + i)
        for i in range(images):
            draw_image(tmp_path / "made" / f"{name}-{i}" / "0.png", seed=40 + len(name) + i)
    return tmp_path / "photos", tmp_path / "made"


def test_any_two_folders_can_be_scored_over_many_subjects(folders):
    photos, made = folders
    lines = score_lines(ScoreConfig(reference=str(photos), generated=str(made), protocol=("oft",)))
    pooled = find(lines, set="made", score="dino", subject=None)
    by_subject = {
        name: find(lines, set="made", score="dino", subject=name, prompt=None) for name in ("dog", "backpack_dog")
    }
    assert {name: line["pairs"] for name, line in by_subject.items()} == {"dog": 4, "backpack_dog": 3}
    flat = sum(line["value"] * line["pairs"] for line in by_subject.values()) / 7
    assert pooled["value"] == pytest.approx(flat, abs=2e-6)
    assert (pooled["pairs"], pooled["subjects"], pooled["pooling"]) == (7, 2, "pairs")
    assert "clip_t" not in {line["score"] for line in lines}


def test_folders_named_like_another_subject_count_only_under_the_bug(folders):
    photos, made = folders
    config = ScoreConfig(reference=str(photos), generated=str(made), protocol=("oft",), oft_substring_bug=True)
    lines = score_lines(config)
    assert find(lines, set="made", score="dino", subject="dog", prompt=None)["pairs"] == 6
    assert {line["protocol"] for line in lines} == {"oft+substring_bug"}


def test_prompts_for_folders_come_from_a_text_or_json_file(folders, tmp_path):
    photos, made = folders
    (tmp_path / "prompts.txt").write_text("a qwe dog in the snow\na qwe dog on the beach\n")
    config = {"reference": str(photos / "dog"), "generated": str(made), "class_word": "dog"}
    lines = score_lines(ScoreConfig(**config, prompts=str(tmp_path / "prompts.txt")))
    assert find(lines, score="context_accuracy", prompt=None)["candidates"] == 25
    table = {"dog-0/0.png": "a qwe dog in the snow", "dog-1/0.png": "a red qwe dog"}
    (tmp_path / "prompts.json").write_text(json.dumps(table))
    lines = score_lines(ScoreConfig(**config, prompts=str(tmp_path / "prompts.json")))
    assert {line["prompt"] for line in lines if line["score"] == "clip_t"} == {None, *table.values()}
    (tmp_path / "prompts.txt").write_text("only one\n")
    with pytest.raises(UserError, match="1 lines for 2 images"):
        read_task(ScoreConfig(**config, prompts=str(tmp_path / "prompts.txt")))


def test_a_subject_without_images_is_an_error(folders):
    photos, made = folders
    draw_image(photos / "cat" / "0.png", seed=1)
    with pytest.raises(UserError, match="no images of subject 'cat'"):
        read_task(ScoreConfig(reference=str(photos), generated=str(made)))


@pytest.mark.parametrize("given", [{}, {"run": "a", "reference": "b", "generated": "c"}, {"reference": "b"}])
def test_nothing_or_two_things_to_score_is_an_error(given):
    with pytest.raises(UserError, match="what to score"):
        read_task(ScoreConfig(**given))


def test_pair_counts_of_the_benchmark_on_the_real_photos(dreambooth_folder):
    """158 photos, 684 ordered real pairs, 15,800 real x generated pairs for 100 images per subject."""
    names = subject_names(str(dreambooth_folder))
    subjects = [load_subject(DataConfig(subject=name, dataset=str(dreambooth_folder))) for name in names]
    row, with_self = real_rows(make_judge(), subjects, [PROTOCOLS["oft"], find_protocol("oft+self_pairs")])
    assert (len(subjects), row.dino.images, row.dino.pairs) == (30, 158, 684)
    assert with_self.dino.pairs == 684 + 158
    assert with_self.dino.value > row.dino.value
    images = EmbeddedImages(dino=torch.eye(100), clip=torch.eye(100), prompts=torch.arange(100) // 4)
    embedded = [
        EmbeddedSubject(
            name=subject.name,
            photos_dino=torch.zeros(len(subject.photos), 100),
            photos_clip=torch.zeros(len(subject.photos), 100),
            images=images,
        )
        for subject in subjects
    ]
    for name, pairs in (("oft", 15_800), ("oft+substring_bug", 15_800 + 5 * 100)):
        scores = measure_fidelity(embedded, find_protocol(name))
        assert pool([score[0].total for score in scores.values()], "pairs").pairs == pairs


def test_protocol_table_shows_every_combination_beside_the_published_rows(tmp_path):
    for name in ("dog", "cat"):
        for i in range(2):
            draw_image(tmp_path / name / f"{i}.png", seed=i + len(name))
    (tmp_path / "classes.csv").write_text("subject_name,class\ndog,dog\ncat,cat\n")
    subjects = [load_subject(DataConfig(subject=name, dataset=str(tmp_path))) for name in ("dog", "cat")]
    rows = real_rows(make_judge(), subjects, combinations())
    table = render_rows(rows, is_random=False)
    assert all(protocol.name in table for protocol in combinations())
    for published in ("0.703  0.864", "0.774  0.885", "0.764  0.890"):
        assert published in table
    assert "RANDOM" in render_rows(rows, is_random=True)


def test_a_score_line_of_an_older_file_reads_with_what_it_lacks_as_nothing():
    record = {
        "set": "final", "protocol": "dreambooth", "score": "dino", "value": None, "pairs": 0, "images": 2,
        "subject": "dog", "prompt": "a qwe dog", "prompt_index": 4, "encoder": "dino", "weights": "ab",
        "random_weights": False, "random_base": True, "step": None, "strength": 0.0, "inputs": "x", "later": 1,
    }  # fmt: skip
    line = ScoreLine.of(record)
    assert (line.text_number, line.photos, line.threshold) == (4, None, None)
    assert line.is_base and line.is_random and math.isnan(line.mean.value)


LEFT_BY_SYSTEMS = ("._1.png", ".DS_Store", "Thumbs.db", "desktop.ini")


@pytest.fixture
def counted(tmp_path: Path) -> tuple[Path, Path]:
    """Three photos and twelve images, counted without zeros in front."""
    photos, generated = tmp_path / "photos" / "dog", tmp_path / "generated"
    photos.mkdir(parents=True)
    generated.mkdir()
    for number in range(3):
        draw_image(photos / f"{number}.png", number)
    for number in range(1, 13):
        draw_image(generated / f"{number}.png", number)
    return photos, generated


def _images(counted: tuple[Path, Path], **changes) -> list:
    photos, generated = counted
    task = read_task(ScoreConfig(reference=str(photos), generated=str(generated), **changes))
    return list(task.groups[0][0].images)


def test_images_counted_without_zeros_pair_with_their_prompts_in_the_order_of_counting(counted):
    prompts = counted[1].parent / "prompts.txt"
    prompts.write_text("".join(f"prompt {number}\n" for number in range(1, 13)))
    pairs = {image.file.stem: image.prompt for image in _images(counted, prompts=str(prompts))}
    assert pairs == {str(number): f"prompt {number}" for number in range(1, 13)}


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
def test_prompts_and_tables_of_other_systems_are_read(encoding: str, counted):
    lines, table = counted[1].parent / "p.txt", counted[1].parent / "p.json"
    lines.write_bytes("".join(f"犬 {number}\r\n" for number in range(1, 13)).encode(encoding))
    table.write_bytes(json.dumps({f"{number}.png": f"犬 {number}" for number in range(1, 13)}).encode(encoding))
    by_line, by_name = (_images(counted, prompts=str(file)) for file in (lines, table))
    assert [p.prompt for p in by_line] == [p.prompt for p in by_name] == [f"犬 {number}" for number in range(1, 13)]


def test_what_systems_leave_behind_is_no_image_and_no_photo(counted):
    for folder in counted:
        for name in LEFT_BY_SYSTEMS:
            (folder / name).write_bytes(b"\0\5\x16\7")
        (folder / "@eaDir").mkdir()
        (folder / "@eaDir" / "1.png").write_bytes(b"x")
    assert len(_images(counted)) == 12


@pytest.mark.parametrize("which", [0, 1])
def test_files_left_out_of_a_score_are_named(which: int, counted):
    (counted[which] / "more.gif").write_bytes(b"GIF89a")
    with pytest.warns(UserWarning, match=r"are used; left out: more\.gif \(\.gif is not read"):
        _images(counted)


def test_a_damaged_image_made_elsewhere_is_not_ours_to_delete(counted):
    (counted[1] / "7.png").write_bytes(b"half an image")
    config = ScoreConfig(reference=str(counted[0]), generated=str(counted[1]), protocol=("miniature",))
    with pytest.raises(UserError, match=r"7\.png.*make it again, or move it elsewhere") as caught:
        score_lines(config)
    assert "delete" not in str(caught.value)
