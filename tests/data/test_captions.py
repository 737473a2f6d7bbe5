"""Captions of photos: every way other trainers write them, each to its photo; what belongs to none is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from delora_sd.data.captions import photo_prompts
from delora_sd.data.subjects import find_subject
from delora_sd.errors import UserError
from delora_sd.settings import DataConfig


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    """Two photos, 00.jpg and 01.png, and no caption yet."""
    for name in ("00.jpg", "01.png"):
        Image.new("RGB", (40, 30), "teal").save(tmp_path / name)
    return DataConfig(photos=str(tmp_path), class_word="dog", captions="beside", instance_template="{caption}")


def write(folder: Path, kind: str) -> str:
    """Writes the two captions in one of the ways; returns `data.captions`."""
    texts = {"00.jpg": "{identifier} {class_word} on a rug", "01.png": "two hats, {identifier} {class_word}"}
    if kind == "beside":
        for name, text in texts.items():
            (folder / name).with_suffix(".txt").write_text(text + "\n", encoding="utf-8-sig")
        return kind
    file = folder / {"hf": "metadata.jsonl", "csv": "metadata.csv"}.get(kind, "captions.json")
    if kind == "hf":
        lines = [json.dumps({"file_name": f"train/{name}", "text": text}) for name, text in texts.items()]
        file.write_text("\n".join(lines))
    elif kind == "csv":
        file.write_text("file_name,text\n" + "\n".join(f'{name},"{text}"' for name, text in texts.items()))
    elif kind == "kohya":  # a full path without its ending, the caption and the tags in two fields
        first, second = texts.values()
        said = {"caption": "two hats", "tags": second.removeprefix("two hats, ")}
        file.write_text(json.dumps({"/data/00": {"caption": first, "train_resolution": [64, 64]}, "/data/01": said}))
    else:
        file.write_text(json.dumps(texts))
    return str(file)


@pytest.mark.parametrize("kind", ["beside", "hf", "csv", "kohya", "plain"])
def test_each_photo_is_trained_with_its_own_caption(data, kind):
    data = replace(data, captions=write(Path(data.photos), kind))
    subject = find_subject(data)
    assert photo_prompts(data, subject) == ("qwe dog on a rug", "two hats, qwe dog")
    held_out = replace(subject, photos=subject.photos[1:], held_out=subject.photos[:1])
    assert photo_prompts(data, held_out) == ("two hats, qwe dog",)


def test_the_template_says_where_the_caption_goes(data):
    folder = Path(data.photos)
    (folder / "00.txt").write_text("on a\nrug")
    (folder / "01.txt").write_text("")
    data = replace(data, instance_template="a photo of {identifier} {class_word}, {caption}")
    assert photo_prompts(data, find_subject(data)) == ("a photo of qwe dog, on a rug", "a photo of qwe dog")


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("00.txt", "{identifier}", r"no caption for 1 of 2 photos \(01\.png\)"),
        ("02.txt", "{identifier}", "a caption for '02', but no such photo"),
        ("00.caption", "{identifier}", "has a .txt and a .caption"),
        ("01.txt", "a dog", r"caption of 01\.png: .*does not name the subject"),
        ("01.txt", "{identifier} {clas_word}", r"caption of 01\.png: .*unknown placeholder"),
        ("01.txt", "{identifier} \x07", r"caption of 01\.png: .*control character"),
    ],
)
def test_what_is_wrong_with_captions_beside_photos_names_the_photo(data, name, text, message):
    folder = Path(data.photos)
    (folder / "00.txt").write_text("{identifier}")
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        photo_prompts(data, find_subject(data))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("c.jsonl", '{"file_name": "00.jpg"}', "entry 1: expected `file_name` and `text`, found file_name"),
        ("c.jsonl", '{"file_name": "07.jpg", "text": "x"}', r"for '07\.jpg', but no such photo"),
        ("c.jsonl", '{"file_name": "00.jpg", "text": "x"}\n' * 2, r"entry 2: two captions for 00\.jpg"),
        ("c.jsonl", "[1]", "entry 1: expected fields, found list"),
        ("c.jsonl", "{", "not to be read as .jsonl"),
        ("c.json", "[]", "expected {photo: caption}"),
        ("c.json", '{"00": {"tags": 3}}', "00: no caption"),
        ("c.json", '{"00": "x", "00.jpg": "y"}', r"two captions for 00\.jpg"),
        ("c.csv", "a,b\n1,2", "entry 1: expected `file_name`"),
        ("c.yaml", "", "expected `beside` or a file that ends with"),
        ("gone.json", None, "No such file"),
    ],
)
def test_what_is_wrong_with_a_file_of_captions_names_the_entry(data, name, content, message):
    file = Path(data.photos) / name
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=message):
        photo_prompts(replace(data, captions=str(file)), find_subject(data))


def test_captions_without_a_place_and_a_place_without_captions_are_refused(data):
    subject = find_subject(data)
    with pytest.raises(UserError, match=r"has no \{caption\}"):
        photo_prompts(replace(data, instance_template="a photo of {identifier} {class_word}"), subject)
    with pytest.raises(UserError, match=r"data\.captions is none"):
        photo_prompts(replace(data, captions=None), subject)
