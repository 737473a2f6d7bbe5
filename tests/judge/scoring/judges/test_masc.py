"""MaSC written out here equals its authors' package on the same weights, and a double loop over patches."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_photos import write_odd_photos
from PIL import Image

from delora_eval.scoring.judges.answers import prompt_similarity, subject_similarity
from delora_eval.scoring.judges.embedding import Judge
from delora_eval.scoring.judges.masc.network import load_patch_encoder, pool_patches, see_patches
from delora_eval.scoring.judges.masc.patches import concept_preservation, patch_grid, to_patches, without_subject
from delora_eval.scoring.judges.networks.weights import ENCODERS, Weights
from delora_eval.settings import EncoderConfig
from delora_sd.data.photos import open_photo
from delora_sd.errors import UserError

NAFLEX = "siglip2/so400m-16-naflex"
TOWER = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
TINY = {
    "vision_config": TOWER | {"patch_size": 16, "num_patches": 16},
    "text_config": TOWER | {"vocab_size": 60, "max_position_embeddings": 64, "projection_size": 24},
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> list[Path]:
    """The five odd photos, each with a soft mask of a disc."""
    files = write_odd_photos(tmp_path_factory.mktemp("masc") / "photos")
    for file in files:
        width, height = open_photo(file).size
        rows, columns = np.mgrid[0:height, 0:width]
        distance = np.hypot(rows / height - 0.5, columns / width - 0.45)
        mask = Image.fromarray((255 * np.clip(6 * (0.35 - distance), 0, 1)).astype(np.uint8))
        (file.parent / "masks").mkdir(exist_ok=True)
        mask.save(file.parent / "masks" / file.name)
    return files


@pytest.fixture
def judge() -> Judge:
    """A judge whose MaSC is a tiny SigLIP 2 with random weights."""
    made = Judge(config=EncoderConfig(device="cpu", random_weights=True))
    made.weights[NAFLEX] = Weights(spec=replace(ENCODERS[NAFLEX], sizes=TINY), file=None, hash="random")
    return made


def their_masc(model, tokenize):
    """The package's own class around our network, with transformers' own image processor."""
    masc = pytest.importorskip("masc", reason="NO MASC PACKAGE: our MaSC is not compared with its authors'")
    from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

    class Processor:
        image_processor = Siglip2ImageProcessor(patch_size=16)

        def __call__(self, *, text, padding, return_tensors):
            return {"input_ids": tokenize(text)}

    scorer = masc.MaSC.__new__(masc.MaSC)
    scorer.stripper, scorer.stripper_model, scorer.device, scorer.fg_threshold = "regex", None, "cpu", 0.5
    scorer.is_naflex, scorer.naflex_max_patches = True, 1024
    scorer.processor, scorer.model = Processor(), model
    scorer.patch_size, scorer.input_size = 16, 0
    return scorer


def mask_of(photo: Path) -> np.ndarray:
    return np.asarray(Image.open(photo.parent / "masks" / photo.name))


@pytest.mark.filterwarnings("ignore")  # the package's and transformers' own deprecations
def test_both_numbers_equal_the_authors_package(judge, photos):
    encoder = load_patch_encoder(judge.weights[NAFLEX], torch.device("cpu"))
    scorer = their_masc(encoder.model, encoder.tokenize)
    prompts = ["a dog in the snow", "the Dog on a beach", "a purple thing", "dog", "a hot dog stand in the city"]
    cp = subject_similarity(judge, "masc", photos, photos)
    pf = prompt_similarity(judge, "masc", photos, prompts, class_word="dog")
    for row, photo in enumerate(photos):
        for column, image in enumerate(photos):
            result = scorer.score(
                open_photo(photo), mask_of(photo), open_photo(image), mask_of(image), prompts[column], "dog"
            )
            assert cp[row, column].item() == pytest.approx(result.cp, abs=1e-5)
            assert pf[column].item() == pytest.approx(result.pf, abs=1e-5)
            assert result.extras["prompt_text"] == without_subject(prompts[column], "dog")


def test_patches_equal_transformers_processor_on_odd_photos(photos):
    from transformers.models.siglip2.image_processing_siglip2 import Siglip2ImageProcessor

    processor = Siglip2ImageProcessor(patch_size=16)
    for file in photos:
        photo = open_photo(file)
        theirs = processor(images=[photo], return_tensors="pt", max_num_patches=1024)
        grid = patch_grid(photo.height, photo.width)
        assert list(grid) == theirs["spatial_shapes"][0].tolist(), file.name
        values = theirs["pixel_values"][0][: grid[0] * grid[1]]
        torch.testing.assert_close(to_patches(photo, grid), values, atol=1e-5, rtol=0, msg=file.name)


def test_concept_preservation_equals_a_double_loop_over_patches():
    rng = np.random.default_rng(3)
    reference, image = rng.normal(size=(11, 6)), rng.normal(size=(9, 6))
    foreground = rng.random(11) > 0.4
    best = []
    for patch, is_foreground in zip(reference, foreground, strict=True):
        if is_foreground:
            cosines = [patch @ other / np.linalg.norm(patch) / np.linalg.norm(other) for other in image]
            best.append(max(cosines))
    unit = [torch.from_numpy(rows / np.linalg.norm(rows, axis=1, keepdims=True)) for rows in (reference, image)]
    found = concept_preservation(unit[0][torch.from_numpy(foreground)], unit[1])
    assert found == pytest.approx(sum(best) / len(best), abs=1e-6)


def test_an_image_is_seen_once_for_every_protocol_that_asks(judge, photos):
    prompts = ["a dog in the snow"] * len(photos)
    first = [subject_similarity(judge, "masc", photos, photos)]
    first.append(prompt_similarity(judge, "masc", photos, prompts, class_word="dog"))
    seen = judge.seen[NAFLEX]
    again = [subject_similarity(judge, "masc", photos, photos)]
    again.append(prompt_similarity(judge, "masc", photos, prompts, class_word="dog"))
    assert judge.seen[NAFLEX] == seen and all(map(torch.equal, first, again))


def test_a_photo_preserves_its_own_subject_perfectly_and_the_background_does_not_count(judge, photos, tmp_path):
    image = open_photo(photos[3])
    pixels, mask = np.array(image), mask_of(photos[3])
    assert subject_similarity(judge, "masc", [photos[3]], [photos[3]]).item() == pytest.approx(1, abs=1e-6)
    vectors, _ = see_patches(load_patch_encoder(judge.weights[NAFLEX], torch.device("cpu")), image)
    assert vectors.shape == (patch_grid(*pixels.shape[:2])[0] * patch_grid(*pixels.shape[:2])[1], 24)
    assert (mask == 0).any()


def test_pooling_over_no_patch_is_no_number(judge):
    encoder = load_patch_encoder(judge.weights[NAFLEX], torch.device("cpu"))
    assert pool_patches(encoder, torch.randn(4, 24), torch.zeros(4, dtype=torch.bool)) is None


def test_photos_without_masks_say_how_to_make_them(judge, tmp_path):
    files = write_odd_photos(tmp_path / "dog")[2:4]
    with pytest.raises(UserError, match=r"no mask for 2 of 2 photos .*delora-sd masks") as caught:
        subject_similarity(judge, "masc", files, files)
    assert re.search(r"class_word=", str(caught.value))


def test_a_mask_too_small_for_a_patch_is_refused(judge, tmp_path):
    (file,) = write_odd_photos(tmp_path / "dog")[3:4]
    width, height = open_photo(file).size
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[0, 0] = 255
    (file.parent / "masks").mkdir()
    Image.fromarray(mask).save(file.parent / "masks" / file.name)
    with pytest.raises(UserError, match="too small to judge by"):
        subject_similarity(judge, "masc", [file], [file])
