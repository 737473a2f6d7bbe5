"""Captions by a model: the subject's identity is left out, nothing is written unasked, nothing edited is lost."""

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from delora_sd.captioning import make
from delora_sd.captioning.captioner import load_captioner
from delora_sd.captioning.identity_words import leave_identity_out
from delora_sd.captioning.make import make_captions
from delora_sd.captioning.settings import CaptionsConfig
from delora_sd.data.captions import photo_prompts
from delora_sd.data.subjects import find_subject
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig

DOG = "{identifier} {class_word}"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("a small brown dog with white paws sitting on a red carpet", f"{DOG} sitting on a red carpet"),
        ("a photo of a dog in the snow.", f"{DOG} in the snow"),
        ("There is a black and white dog that has a spot on its ear, near a blue car", f"{DOG}, near a blue car"),
        ("a man holding a brown dog in a garden", f"a man holding {DOG} in a garden"),
        ("a dog wearing a yellow hat", f"{DOG} wearing a yellow hat"),
        ("a fluffy dog and a cat on a sofa", f"{DOG} and a cat on a sofa"),
        ("on the beach, a dog runs", f"on the beach, {DOG} runs"),
        ("dog", DOG),
        ("a close up of a dog's face", f"{DOG}'s face"),
    ],
)
def test_the_subjects_phrase_colours_and_marks_go_and_its_context_stays(said, expected):
    cleaned = leave_identity_out(said, "corgi dog")
    assert (cleaned.text, cleaned.is_guessed) == (expected, False)


def test_where_the_class_word_does_not_occur_the_first_phrase_is_taken_and_that_is_said():
    cleaned = leave_identity_out("a brown puppy on a {rug}", "dog")
    assert cleaned.is_guessed and cleaned.text == f"{DOG} on a (rug)"
    assert leave_identity_out("", "dog").text == DOG


@pytest.fixture(scope="module")
def captioner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random BLIP of a few thousand parameters, in the layout of the hub."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import (
        BertTokenizerFast,
        BlipConfig,
        BlipForConditionalGeneration,
        BlipImageProcessor,
        BlipProcessor,
    )

    folder = tmp_path_factory.mktemp("blip")
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "dog", "on", "rug", "red", "brown", "hat"]
    tokenizer = Tokenizer(models.WordPiece({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    small = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = small | {
        "vocab_size": len(words),
        "bos_token_id": 2,
        "eos_token_id": 3,
        "sep_token_id": 3,
        "pad_token_id": 0,
    }
    config = BlipConfig(
        text_config=text | {"encoder_hidden_size": 16}, vision_config=small | {"image_size": 32, "patch_size": 16}
    )
    BlipForConditionalGeneration(config).save_pretrained(folder)
    processor = BlipImageProcessor(size={"height": 32, "width": 32})
    BlipProcessor(processor, BertTokenizerFast(tokenizer_object=tokenizer)).save_pretrained(folder)
    return folder


@pytest.fixture
def config(captioner: Path, tmp_path: Path) -> CaptionsConfig:
    for name in ("00.jpg", "01.png"):
        Image.new("RGB", (40, 30), "teal").save(tmp_path / name)
    return CaptionsConfig(photos=str(tmp_path), class_word="dog", captioner=str(captioner), offline=True)


def test_a_model_of_transformers_says_the_same_of_the_same_photo(captioner: Path):
    model = load_captioner(str(captioner), is_offline=True)
    photo = Image.new("RGB", (40, 30), "teal")
    assert model.describe(photo) == model.describe(photo)


def test_captions_are_shown_first_written_when_told_and_trained_with(config, monkeypatch, capsys):
    folder = Path(config.photos)
    monkeypatch.setattr(make.Captioner, "describe", lambda self, photo: "a brown dog on a rug")
    make_captions(config)
    assert "nothing is written yet" in capsys.readouterr().out
    assert not list(folder.glob("*.txt"))
    make_captions(replace(config, write=True))
    assert sorted(path.name for path in folder.glob("*.txt")) == ["00.txt", "01.txt"]
    data = DataConfig(photos=config.photos, class_word="dog", captions="beside", instance_template="{caption}")
    assert set(photo_prompts(data, find_subject(data))) == {"qwe dog on a rug"}


def test_an_edited_caption_is_never_overwritten_and_our_own_may_be(config, monkeypatch, capsys):
    folder = Path(config.photos)
    (folder / "00.txt").write_text("mine")
    make_captions(replace(config, write=True))
    assert (folder / "00.txt").read_text() == "mine" and "kept: 00" in capsys.readouterr().out
    monkeypatch.setattr(make.Captioner, "describe", lambda self, photo: "a red dog on a rug")
    make_captions(replace(config, write=True))
    assert (folder / "01.txt").read_text() == f"{DOG} on a rug\n"
    (folder / "01.txt").write_text("edited")
    make_captions(replace(config, write=True))
    assert (folder / "01.txt").read_text() == "edited"


def test_what_cannot_be_captioned_is_said_before_a_model_loads(config):
    folder = Path(config.photos)
    for changes, message in (
        ({"photos": ""}, "photos: missing"),
        ({"class_word": None}, "class_word: missing"),
        ({"captioner": "./nowhere"}, "no such folder"),
        ({"captioner": str(folder)}, "cannot be used"),
        ({"captioner": "owner/unknown"}, "not found in the hub's cache"),
    ):
        with pytest.raises(UserError, match=message):
            make_captions(replace(config, **changes))
    Image.new("RGB", (40, 30)).save(folder / "00.png")
    with pytest.raises(UserError, match="2 photos are named 00"):
        make_captions(config)
