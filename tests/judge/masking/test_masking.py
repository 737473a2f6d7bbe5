"""`delora-sd masks`: a tiny CLIPSeg of the real kind makes masks, and what a person drew is never overwritten."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from delora_eval.masking.make import RECORD, make_masks
from delora_eval.masking.segmenter import find_subject, load_segmenter
from delora_eval.settings import MasksConfig
from delora_sd.data.masks import find_masks, load_mask
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError

TOWER = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def clipseg(tmp_path_factory):
    """CLIPSeg's own architecture with random weights, its processor and a tokenizer, as a local folder."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPSegProcessor, ViTImageProcessor

    from delora_sd.miniature.text import new_tokenizer

    tokenizer = new_tokenizer()
    config = CLIPSegConfig(
        text_config=TOWER | {"vocab_size": len(tokenizer), "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0},
        vision_config=TOWER | {"image_size": 64, "patch_size": 16},
        projection_dim=16,
        reduce_dim=8,
        extract_layers=[0, 1, 2],
        decoder_num_attention_heads=2,
        decoder_intermediate_size=16,
        conditional_layer=0,
    )
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("clipseg")
    CLIPSegForImageSegmentation(config).save_pretrained(folder)
    images = ViTImageProcessor(size={"height": 64, "width": 64}, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    CLIPSegProcessor(images, tokenizer).save_pretrained(folder)
    return folder


@pytest.fixture
def photos(tmp_path):
    """Three photos of different shapes."""
    folder = tmp_path / "rex"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shape in {"a": (60, 90, 3), "b": (80, 50, 3), "c": (64, 64, 3)}.items():
        Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(folder / f"{name}.png")
    return folder


def config_of(clipseg, photos, **settings) -> MasksConfig:
    """A threshold under what an untrained CLIPSeg answers, so that it finds something."""
    settings = {"threshold": 0.01, "class_word": "dog", "device": "cpu"} | settings
    return MasksConfig(photos=str(photos), segmenter=str(clipseg), offline=True, **settings)


def test_every_photo_gets_a_mask_of_its_own_size_where_masks_are_looked_for(clipseg, photos):
    said = make_masks(config_of(clipseg, photos))
    files = sorted(photos.glob("*.png"))
    for photo, mask in zip(files, find_masks(files), strict=True):
        assert load_mask(photo, mask).shape == open_photo(photo).size[::-1]
    assert said.count("made") == 3 and f"masks: {photos / 'masks'}" in said
    page = (photos / "masks" / "overlay.html").read_text()
    assert page.count("data:image/webp") == 3 and "a.png" in page


def test_the_mask_is_where_the_segmenter_is_sure(clipseg, photos):
    segmenter = load_segmenter(config_of(clipseg, photos))
    photo = open_photo(photos / "a.png")
    sure = find_subject(segmenter, photo, "dog")
    middle = float(np.median(sure))
    make_masks(config_of(clipseg, photos, threshold=middle))
    mask = np.asarray(open_photo(photos / "masks" / "a.png"))[..., 0]
    np.testing.assert_array_equal(mask > 0, sure >= middle)
    assert 0 < (mask > 0).mean() < 1


def test_a_drawn_and_an_edited_mask_are_kept_and_the_rest_is_not_made_twice(clipseg, photos):
    (photos / "masks").mkdir()
    drawn = np.zeros((60, 90), dtype=np.uint8)
    drawn[:9] = 255
    Image.fromarray(drawn).save(photos / "masks" / "a.png")
    make_masks(config_of(clipseg, photos))
    Image.fromarray(drawn.T[:80, :50]).save(photos / "masks" / "b.png")
    before = {file: file.read_bytes() for file in (photos / "masks").glob("*.png")}
    said = make_masks(config_of(clipseg, photos, threshold=0.02))
    assert said.count("kept: drawn or edited by a person") == 2
    assert {file for file, content in before.items() if file.read_bytes() == content} >= {
        photos / "masks" / "a.png",
        photos / "masks" / "b.png",
    }
    assert "c.png: already made" in make_masks(config_of(clipseg, photos, threshold=0.02))
    assert set(json.loads((photos / "masks" / RECORD).read_text())) == {"b.png", "c.png"}


def test_a_changed_photo_or_setting_makes_its_mask_again(clipseg, photos):
    make_masks(config_of(clipseg, photos))
    Image.fromarray(np.full((64, 64, 3), 200, dtype=np.uint8)).save(photos / "c.png")
    said = make_masks(config_of(clipseg, photos))
    assert "c.png: made" in said and said.count("already made") == 2
    assert make_masks(config_of(clipseg, photos, class_word="cat")).count(": made") == 3


def test_a_lost_record_makes_every_mask_a_persons(clipseg, photos):
    make_masks(config_of(clipseg, photos))
    (photos / "masks" / RECORD).write_text("{")
    assert make_masks(config_of(clipseg, photos)).count("kept: drawn or edited") == 3


def test_nothing_found_writes_no_empty_mask(clipseg, photos):
    said = make_masks(config_of(clipseg, photos, threshold=0.999999))
    assert said.count("nothing found; draw it, lower threshold=") == 3
    assert not list((photos / "masks").glob("*.png"))


def test_an_alpha_channel_is_left_to_speak_for_itself(clipseg, photos):
    pixels = np.full((64, 64, 4), 255, dtype=np.uint8)
    pixels[:32, :, 3] = 0
    Image.fromarray(pixels).save(photos / "c.png")
    assert "c.png: the photo's own alpha channel, 50% of the photo" in make_masks(config_of(clipseg, photos))
    assert not (photos / "masks" / "c.png").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"class_word": None}, "class_word is missing"),
        ({"class_word": "  "}, "class_word is missing"),
        ({"threshold": 1.5}, "expected a number between 0 and 1"),
    ],
)
def test_bad_settings_are_said_before_a_model_loads(photos, settings, message):
    with pytest.raises(UserError, match=message):
        make_masks(config_of("/nowhere", photos, **settings))


def test_no_segmenter_and_another_kind_of_model_are_refused_in_one_line(clipseg, photos, tmp_path):
    with pytest.raises(UserError, match=r"cannot be loaded .*give a local folder with a CLIPSeg") as caught:
        make_masks(config_of(tmp_path / "none", photos))
    assert "\n" not in str(caught.value)
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text(json.dumps({"model_type": "clip"}))
    with pytest.raises(UserError, match="a clip model; expected a CLIPSeg"):
        make_masks(config_of(other, photos))


def test_a_pickled_segmenter_is_refused(clipseg, photos, tmp_path):
    for file in clipseg.iterdir():
        if file.suffix != ".safetensors":
            (tmp_path / file.name).write_bytes(file.read_bytes())
    torch.save({}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="cannot be loaded"):
        make_masks(config_of(tmp_path, photos))
