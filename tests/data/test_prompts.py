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
        ("a dog\x85 of a terminal", "control character"),
        ("a dog \x1b[31m", "control character"),
        ("half a character \ud83d", "control character"),
    ],
)
def test_bad_prompt_is_one_clear_line(template: str, message: str):
    with pytest.raises(UserError, match=message) as caught:
        render_prompt(template, **DOG)
    assert str(caught.value).isprintable()


WRITTEN = {
    "zero-width joiners (a family, a dog)": "a photo of 👨\u200d👩\u200d👧 and 🐕\u200d🦺",
    "variation selectors": "a red heart \u2764\ufe0f",
    "Devanagari": "कुत्ते की तस्वीर, क्\u200dष",
    "Persian": "سگ قهوه\u200cای",
    "Arabic with marks of direction": "\u200fصورة كلب\u200f \u2067abc\u2069",
    "Thai with zero-width spaces": "สุนัข\u200bสีแดง",
    "soft hyphens of a web page": "a beau\u00adti\u00adful dog",
    "spaces of a web page": "a\u00a0dog\u202fin\u2009the\u3000snow",
    "line separators of a web page": "a dog\u2028in the snow",
    "emoji newer than Python's tables": "a dog \U0001fae9",
    "a mark of an editor": "\ufeffa dog",
    "private use, as a phone's logo": "a dog \uf8ff",
}


@pytest.mark.parametrize("text", WRITTEN.values(), ids=WRITTEN)
def test_what_belongs_to_writing_is_left_as_it_is(text: str):
    assert render_prompt(text, **DOG) == text.strip()


def test_tabs_and_line_breaks_are_spaces():
    assert render_prompt("a dog\r\non two\tlines\n", **DOG) == "a dog on two lines"


FILES = {
    "utf-8": "a dog\nein Hütchen\n".encode(),
    "mark of UTF-8": "\ufeffa dog\nein Hütchen\n".encode(),
    "UTF-16 of Windows": "\ufeffa dog\r\nein Hütchen\r\n".encode("utf-16-le"),
    "UTF-16, big end first": "\ufeffa dog\nein Hütchen".encode("utf-16-be"),
    "UTF-32": "\ufeffa dog\nein Hütchen".encode("utf-32-le"),
    "line ends of Windows": "a dog\r\nein Hütchen\r\n".encode(),
    "line ends of old Macs": "a dog\rein Hütchen\r".encode(),
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES)
def test_prompt_files_of_other_systems_are_read(content: bytes, tmp_path: Path):
    file = tmp_path / "mine.txt"
    file.write_bytes(content)
    assert [prompt.text for prompt in load_prompts((str(file),), is_live=False, **DOG)] == ["a dog", "ein Hütchen"]


def test_a_line_separator_inside_a_prompt_does_not_part_it(tmp_path: Path):
    (tmp_path / "mine.txt").write_text("a dog\u2028in the snow\u2029at night\n", encoding="utf-8")
    assert len(load_prompts((str(tmp_path / "mine.txt"),), is_live=False, **DOG)) == 1


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
    binary.write_bytes(b"\xff\x00\x01")
    with pytest.raises(UserError, match="no prompts in it"):
        load_prompts((str(empty),), is_live=False, **DOG)
    with pytest.raises(UserError, match="not UTF-8 text"):
        load_prompts((str(binary),), is_live=False, **DOG)
