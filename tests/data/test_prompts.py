"""Templates, placeholders and prompt lists."""

from pathlib import Path

import pytest

from delora_sd.data.prompts import benchmark_prompts, class_prompt, instance_prompt, load_prompts, render_prompt
from delora_sd.errors import UserError

DOG = {"identifier": "qwe", "class_word": "dog"}


def test_placeholders_are_filled():
    assert render_prompt("a photo of {identifier} {class_word}", **DOG) == "a photo of qwe dog"
    assert render_prompt("no placeholder <b>at all</b>", **DOG) == "no placeholder <b>at all</b>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("", "a prompt is empty"),
        ("   ", "a prompt is empty"),
        ("a {identifer} dog", r"unknown placeholder \{identifer\}; did you mean 'identifier'"),
        ("a {} dog", "unknown placeholder"),
        ("a dog\x07", "control character"),
        ("a dog\non two lines", "control character"),
    ],
)
def test_bad_prompt_is_one_clear_line(template: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        render_prompt(template, **DOG)
    assert str(caught.value).isprintable()


def test_instance_prompt_must_name_the_subject():
    assert instance_prompt("a photo of {identifier} {class_word}", **DOG) == "a photo of qwe dog"
    with pytest.raises(UserError, match=r"lacks \{identifier\}"):
        instance_prompt("a photo of a {class_word}", **DOG)
    with pytest.raises(UserError, match=r"data\.identifier is empty"):
        instance_prompt("a photo of {identifier} {class_word}", identifier=" ", class_word="dog")


def test_class_prompt_must_not_name_the_subject():
    assert class_prompt("a photo of {class_word}", class_word="dog") == "a photo of dog"
    with pytest.raises(UserError, match=r"must not hold \{identifier\}"):
        class_prompt("a photo of {identifier} {class_word}", class_word="dog")


def test_benchmark_lists_share_what_the_protocol_says():
    objects, live = benchmark_prompts(False), benchmark_prompts(True)
    shared = [i for i in range(25) if objects[i] == live[i]]
    assert shared == [*range(10), *range(20, 25)]


def test_class_prompts_are_the_benchmark_without_identifier():
    prompts = load_prompts(("class",), is_live=True, **DOG)
    assert prompts[10].text == "a dog wearing a red hat" and len(prompts) == 25


def test_prompts_from_all_sources_are_numbered_through(tmp_path: Path):
    file = tmp_path / "mine.txt"
    file.write_text("\ufeff# my prompts\r\n\r\na {identifier} {class_word} on Mars\r\n", encoding="utf-8")
    prompts = load_prompts(("dreambooth", str(file), "a wet qwe dog"), is_live=False, **DOG)
    assert [prompt.index for prompt in prompts] == list(range(27))
    assert prompts[25].text == "a qwe dog on Mars" and prompts[26].template == "a wet qwe dog"


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ((), "prompts is empty"),
        (("no/such.txt",), "prompt file no/such.txt: No such file"),
        (("",), "a prompt is empty"),
    ],
)
def test_bad_prompt_lists(spec: tuple[str, ...], message: str):
    with pytest.raises(UserError, match=message):
        load_prompts(spec, is_live=False, **DOG)


def test_bad_prompt_files(tmp_path: Path):
    empty, binary = tmp_path / "empty.txt", tmp_path / "binary.txt"
    empty.write_text("# nothing\n")
    binary.write_bytes(b"\xff\xfe\x00\x01")
    with pytest.raises(UserError, match="no prompts in it"):
        load_prompts((str(empty),), is_live=False, **DOG)
    with pytest.raises(UserError, match="not UTF-8 text"):
        load_prompts((str(binary),), is_live=False, **DOG)
