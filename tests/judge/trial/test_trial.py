"""`delora-sd judges`: on the miniature, whose truth is known, and with hand-made ratings of people."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from delora_eval.scoring.judges.embedding import Judge, use_encoder
from delora_eval.scoring.judges.family import FAMILY, WIDE
from delora_eval.scoring.judges.protocols import PROTOCOLS
from delora_eval.settings import EncoderConfig, JudgesConfig
from delora_eval.trial.command import try_judges
from delora_eval.trial.galleries import PHOTOS_EACH, dataset_photos, render_lookalikes
from delora_eval.trial.ratings import agree, read_ratings
from delora_eval.trial.verdicts import discriminate, find_views, see_gallery
from delora_sd.cli.main import main
from delora_sd.errors import UserError

PAIRS = 24


@pytest.fixture(scope="module")
def lookalikes(tmp_path_factory):
    return render_lookalikes(tmp_path_factory.mktemp("lookalikes"), PAIRS)


def judged(photos, name: str = "mini-dino", spoil=None):
    judge, view = Judge(config=EncoderConfig()), find_views((name,), dataset="miniature")[name]
    if spoil is not None:
        spoil(use_encoder(judge, view.encoder).see)
    return discriminate(see_gallery(judge, name, photos))


def shuffle_weights(model: torch.nn.Module) -> None:
    """The same numbers in every layer, each in another place."""
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        flat = parameter.data.flatten()
        parameter.data = flat[torch.randperm(len(flat), generator=generator)].view_as(parameter)


def test_mini_dino_sees_identity_also_within_a_class_word():
    seen = judged(dataset_photos("miniature"))
    assert seen.auc.low > 0.95 and seen.auc_within.low > 0.8
    assert seen.found.top1.mean > 0.9 and seen.found.margin.low > 0
    assert seen.auc.count == 30 and 2 <= seen.auc_within.count < 30


def test_mini_dino_tells_unseen_lookalikes_apart_and_mini_clip_hardly(lookalikes):
    assert len(lookalikes.files) == 2 * PAIRS * PHOTOS_EACH and len(set(lookalikes.subjects)) == 2 * PAIRS
    dino, clip = (judged(lookalikes, name) for name in ("mini-dino", "mini-clip"))
    assert dino.auc_within.low > 0.75 and dino.found_within.top1.low > 0.75
    assert clip.auc_within.high < dino.auc_within.low


def test_a_judge_with_shuffled_weights_falls_to_chance(lookalikes):
    spoiled = judged(lookalikes, spoil=shuffle_weights)
    assert spoiled.auc_within.low < 0.5 < spoiled.auc_within.high + 0.05
    assert spoiled.auc_within.mean < 0.58 and spoiled.found_within.top1.mean < 0.65


def test_table_and_figure_are_written_in_every_form(tmp_path: Path, capsys):
    assert main(["judges", "miniature", "lookalikes=2", f"output={tmp_path}"]) == 0
    printed = capsys.readouterr().out
    assert "mini-dino" in printed and "AUC in class" in printed and "Top-1 lookalikes" in printed
    assert {file.name for file in tmp_path.iterdir()} == {
        f"judges.{end}" for end in ("md", "csv", "tex", "json", "svg", "png")
    }
    record = json.loads((tmp_path / "judges.json").read_text())["judges"][0]
    estimate = record["dataset"]["auc_within"]
    assert record["judge"] == "mini-dino" and estimate["low"] <= estimate["mean"] <= estimate["high"]
    assert (tmp_path / "judges.csv").read_text().startswith("Judge,AUC,")


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"judges": ("mini-dinno",)}, "did you mean 'mini-dino'"),
        ({"judges": ()}, "none given"),
        ({"judges": ("vqa",)}, "judges prompts, and photos have none"),
        ({"lookalikes": 1}, "at least 2 pairs"),
        ({"ratings": "x"}, "belong together"),
    ],
)
def test_settings_that_name_nothing_are_refused(settings: dict, says: str):
    with pytest.raises(UserError, match=says):
        try_judges(JudgesConfig(**{"dataset": "miniature"} | settings))


def test_sets_are_written_out_and_every_judge_is_shown_what_its_authors_say():
    views = find_views(("wide", "dino/vit-s-16"), dataset="data/dreambooth")
    assert list(views) == [*WIDE, "dino/vit-s-16"]
    assert all(view == FAMILY[name].view for name, view in views.items())
    assert views["dino/vit-s-16"] == PROTOCOLS["dreambooth"].dino, "the same number as under the papers' protocol"


def test_one_subject_is_said_instead_of_a_perfect_score(tmp_path: Path):
    (tmp_path / "classes.csv").write_text("subject_name,class\nrex,dog\n")
    with pytest.raises(UserError, match="1 subject in it; to tell subjects apart takes at least 2"):
        try_judges(JudgesConfig(dataset=str(tmp_path), judges=("mini-dino",)))


def write_ratings(folder: Path, scale: float = 1.0) -> tuple[Path, Path]:
    """Two groups of raters on six images of one method; an image is its reference with more and more noise."""
    rng, ratings = np.random.default_rng(0), {}
    reference = rng.integers(0, 256, (32, 32, 3))
    for index in range(6):
        noise = rng.integers(0, 256, (32, 32, 3))
        mixed = (reference * (1 - index / 5) + noise * (index / 5)).astype(np.uint8)
        for kind, pixels in (("src_image", reference.astype(np.uint8)), ("tgt_image", mixed)):
            file = folder / "samples" / "dreambooth_sd_gs7_5_step100" / kind / "animal_00_t-shirt" / f"{index}_0.jpg"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(file, quality=95)
        ratings[f"animal_00_t-shirt-{index}"] = min(4, 5 - index) * scale
    for group, changes in (("group1", {}), ("group2", {"animal_00_t-shirt-2": None, "animal_00_t-shirt-3": 3})):
        file = folder / "ratings" / group / "dreambooth_sd-cp.json"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(ratings | changes))
    return folder / "ratings", folder / "samples"


def test_agreement_with_people_is_alpha_per_group_and_tau_with_their_mean(tmp_path: Path):
    import krippendorff
    from scipy.stats import kendalltau

    (rated,) = read_ratings(*write_ratings(tmp_path), "cp")
    assert rated.method == "dreambooth_sd" and [item.image.name for item in rated.images][:2] == ["0_0.jpg", "1_0.jpg"]
    assert rated.by_group[0].tolist() == [4, 4, 3, 2, 1, 0] and np.isnan(rated.by_group[1][2])
    scores = np.array([0.9, 0.8, 0.85, 0.6, 0.5, 0.1])
    found = agree([rated], lambda images: scores)
    means = np.nanmean(rated.by_group, axis=0)
    assert found.tau == pytest.approx(kendalltau(scores, means).statistic, abs=1e-6)
    alphas = []
    for group in rated.by_group:
        stretched = (scores - scores.mean()) / scores.std() * np.nanstd(group) + np.nanmean(group)
        alphas.append(krippendorff.alpha(reliability_data=[group, stretched], level_of_measurement="interval"))
    assert found.alpha == pytest.approx(np.mean(alphas), abs=1e-6)
    people = krippendorff.alpha(reliability_data=rated.by_group, level_of_measurement="interval")
    assert found.alpha_of_people == pytest.approx(people, abs=1e-6) and found.images == 6


def test_a_judge_that_sees_the_noise_agrees_with_the_raters(tmp_path: Path, capsys):
    ratings, samples = write_ratings(tmp_path)
    assert main(["judges", "miniature", "judges=[mini-dino]", f"ratings={ratings}", f"samples={samples}"]) == 0
    printed = capsys.readouterr().out
    assert "α subject" in printed and "α prompt" not in printed
    (verdict,) = try_judges(
        JudgesConfig(dataset="miniature", judges=("mini-dino",), ratings=str(ratings), samples=str(samples))
    )
    assert verdict.agreement["cp"].tau > 0.6


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"animal_00_t-shirt-0": 9}', "ratings of another version"),
        ('{"animal_00_t-shirt-0": [3, 4]}', "ratings of another version"),
        ('{"animal": 3}', "ratings of another version"),
        ("[1, 2]", "<subject>-<prompt number>"),
        ('{"animal_00_cup-0": 3}', "rated, but not there"),
        ('{"../../etc-0": 3}', "no name of a subject's folder"),
    ],
)
def test_ratings_of_another_layout_are_refused(tmp_path: Path, content: str, says: str):
    ratings, samples = write_ratings(tmp_path)
    (ratings / "group1" / "dreambooth_sd-cp.json").write_text(content)
    with pytest.raises(UserError, match=says):
        read_ratings(ratings, samples, "cp")


def test_raw_ratings_are_told_how_to_become_merged_ones(tmp_path: Path):
    _, samples = write_ratings(tmp_path)
    (tmp_path / "raw" / "group1").mkdir(parents=True)
    (tmp_path / "raw" / "group1" / "x-dreambooth_sd.json").write_text('{"animal_00-0": [3, 4]}')
    with pytest.raises(UserError, match=r"no <group>/<method>-cp\.json"):
        read_ratings(tmp_path / "raw", samples, "cp")
