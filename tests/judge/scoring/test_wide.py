"""`judges.set`: the family scores beside the protocol's own DINO and CLIP, at a size for tests, stamped RANDOM."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image
from standins import PROMPTS, write_run, write_set

from delora_eval.scoring.judges.family import FAMILY, SETS
from delora_eval.scoring.judges.networks.weights import ENCODERS
from delora_eval.scoring.record.costs import read_costs
from delora_eval.scoring.score import score
from delora_eval.settings import EncoderConfig, FamilyConfig, ScoreConfig
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_lines

VIT = {"embed_dim": 48, "depth": 2, "num_heads": 3}
TEXT = {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1}
CLIP = {"embed_dim": 32, "text_cfg": TEXT}
CLIP |= {"vision_cfg": {"image_size": 224, "patch_size": 32, "width": 64, "layers": 1, "head_width": 32}}
TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
SIGLIP2 = {
    "embed_dim": 192,
    "vision_cfg": {
        "image_size": 224,
        "timm_model_name": "vit_tiny_patch16_224",
        "timm_pool": "map",
        "timm_proj": "none",
    },
    "text_cfg": TEXT | {"hf_tokenizer_name": "a-folder", "vocab_size": 500, "context_length": 64, "pool_type": "last"},
}
SMALLER = {
    "dino/vit-s-16": VIT,
    "dino/vit-b-16": VIT,
    "dinov2/vit-b-14": VIT,
    "dinov2/vit-l-14": VIT,
    "dinov3/vit-b-16": VIT,
    "dinov3/vit-l-16": VIT,
    "clip/vit-b-32": CLIP,
    "siglip2/so400m-14": SIGLIP2,
    "dreamsim/ensemble": {"sizes": VIT, "projected": 16},
    "siglip2/so400m-16-naflex": {
        "vision_config": TOWER | {"patch_size": 16, "num_patches": 16},
        "text_config": TOWER | {"vocab_size": 60, "max_position_embeddings": 64, "projection_size": 24},
    },
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run of eight images, with masks of its photos, and every judge at a size for tests."""
    for name, sizes in SMALLER.items():
        monkeypatch.setitem(ENCODERS, name, replace(ENCODERS[name], sizes=ENCODERS[name].sizes | sizes))
    folder = write_run(tmp_path)
    write_set(folder, "main", PROMPTS, per_prompt=4)
    write_masks(tmp_path / "photos")
    return folder


def write_masks(folder):
    (folder / "masks").mkdir()
    for photo in folder.glob("*.png"):
        width, height = open_photo(photo).size
        mask = np.zeros((height, width), dtype=np.uint8)
        mask[: height // 2] = 255
        Image.fromarray(mask).save(folder / "masks" / photo.name)


def config_of(run, *judges, **settings) -> ScoreConfig:
    encoders = EncoderConfig(random_weights=True, device="cpu", batch_size=4)
    family = FamilyConfig(set=judges, **settings)
    return ScoreConfig(run=str(run), sets=("main",), protocol=("dreambooth",), judges=family, encoders=encoders)


def lines_of(run, **wanted) -> list[dict]:
    return [line for line in read_lines(run / "scores.jsonl") if all(line[key] == wanted[key] for key in wanted)]


@pytest.mark.filterwarnings("ignore:masc. no masks for 8 of 8 images:UserWarning")
def test_the_whole_family_scores_eight_images_and_every_number_is_stamped(run, capsys):
    score(config_of(run, "all"))
    printed = capsys.readouterr().out
    assert "RANDOM WEIGHTS" in printed and "s an image (cpu" in printed
    totals = {line["score"]: line for line in lines_of(run, set="main", prompt=None)}
    for name in SETS["wide"]:
        for item in FAMILY[name].scores:
            if item.name != "masc_pf":
                line = totals[item.name]
                assert line["random_weights"] and line["weights"] == "random", item.name
                assert line["encoder"] == FAMILY[name].encoder and line["images"] == 8
        ceilings = {line["score"] for line in lines_of(run, set="reference photos")}
        assert {f"real_{item.name}" for item in FAMILY[name].subject} <= ceilings
    assert {"dino", "clip_i", "clip_t"} <= totals.keys(), "all: the protocol's own too"
    assert totals["dreamsim_distance"]["value"] == pytest.approx(1 - totals["dreamsim"]["value"], abs=2e-6)
    assert totals["masc_cp"]["pairs"] == 24 and totals["siglip2_t"]["pairs"] == 8
    costs = read_costs(run / "scores.jsonl")
    assert {FAMILY[name].encoder for name in SETS["wide"]} <= costs.keys()
    assert costs["dinov2/vit-b-14"]["images"] == 8 + 3 and costs["dinov2/vit-b-14"]["seconds"] > 0


def test_a_judge_added_later_leaves_the_other_lines_as_they_are(run):
    score(config_of(run, "classic"))
    before, costs = read_lines(run / "scores.jsonl"), read_costs(run / "scores.jsonl")
    assert costs == {}
    score(config_of(run, "classic", "dinov2/vit-b-14"))
    after = read_lines(run / "scores.jsonl")
    assert after[: len(before)] == before and {line["score"] for line in after[len(before) :]} == {
        "dinov2_b14",
        "real_dinov2_b14",
    }
    file = run / "scores.jsonl"
    stamp = file.stat().st_mtime_ns
    score(config_of(run, "classic", "dinov2/vit-b-14"))
    assert file.stat().st_mtime_ns == stamp, "scored again: nothing to do"


def test_prompt_lines_of_the_family_carry_the_prompts_of_the_run(run):
    score(config_of(run, "siglip2/so400m-14"))
    per_prompt = [line for line in lines_of(run, score="siglip2_t") if line["prompt"]]
    assert [line["prompt"] for line in per_prompt] == ["a qwe dog in the snow", "a qwe dog on the beach"]
    total = next(line for line in lines_of(run, score="siglip2_t") if line["prompt"] is None)
    assert total["value"] == pytest.approx(np.mean([line["value"] for line in per_prompt]), abs=2e-6)


def test_masc_leaves_its_prompt_score_out_without_masks_of_the_images_and_says_so(run):
    with pytest.warns(UserWarning, match=r"masc: no masks for 8 of 8 images .*delora-sd masks .*main class_word="):
        score(config_of(run, "masc"))
    assert lines_of(run, score="masc_cp") and not lines_of(run, score="masc_pf")
    write_masks(run / "images" / "main")
    score(config_of(run, "masc"))
    assert lines_of(run, score="masc_pf", prompt=None)[0]["pairs"] == 8


def test_a_changed_mask_changes_the_number(run, tmp_path):
    with pytest.warns(UserWarning, match="no masks"):
        score(config_of(run, "masc"))
    (before,) = lines_of(run, score="masc_cp", prompt=None)
    for file in (tmp_path / "photos" / "masks").glob("*.png"):
        Image.fromarray(255 - np.asarray(open_photo(file))[..., 0]).save(file)
    with pytest.warns(UserWarning, match="no masks"):
        score(config_of(run, "masc"))
    (after,) = lines_of(run, score="masc_cp", prompt=None)
    assert after["inputs"] != before["inputs"] and after["value"] != before["value"]


def test_what_a_judge_lacks_is_said_before_an_image_is_read(run, tmp_path):
    for file in (tmp_path / "photos" / "masks").glob("*.png"):
        file.unlink()
    with pytest.raises(UserError, match="no mask for 3 of 3 photos"):
        score(config_of(run, "all"))
    with pytest.raises(UserError, match=r"judges\.masks=.*: no such folder"):
        score(config_of(run, "masc", masks=str(tmp_path / "none")))
    with pytest.raises(UserError, match=r"encoders\.vlm="):
        score(config_of(run, "vqa"))
    assert not (run / "scores.jsonl").exists()
