"""Which prompts name the subject, and what an encoder reads that never met the token."""

import pytest

from delora_eval.scoring.inputs.identifier import read_prompt, without_identifier
from delora_sd.data.prompts import benchmark_prompts, render_prompt

SENTENCES = {
    "a {identifier} {class_word} in the snow": "a dog in the snow",
    "{identifier}, a {class_word}, on the beach": "a dog, on the beach",
    "a photo of the {class_word} called {identifier}.": "a photo of the dog called.",
    "a {class_word}, {identifier}, in the snow": "a dog, in the snow",
    "a {class_word}, {identifier}.": "a dog.",
    "a {class_word} in the snow, {identifier}": "a dog in the snow",
    "{identifier}'s {class_word} on a sofa": "dog on a sofa",
    "the {class_word} ({identifier}) on a sofa": "the dog on a sofa",
    "[{identifier} {class_word}] on a sofa": "[dog] on a sofa",
    'a "{identifier}" {class_word}': "a dog",
    "a {identifier}-{class_word}": "a dog",
    "is it {identifier}? a {class_word}": "is it? a dog",
    "{identifier} {class_word} and {identifier}": "dog and",
    "a red, round {identifier} {class_word}": "a red, round dog",
}


@pytest.mark.parametrize("identifier", ["qwe", "sks ohwx", "<new1>", "V*"])
@pytest.mark.parametrize("template", SENTENCES)
def test_the_token_leaves_a_sentence_with_and_without_its_template(template: str, identifier: str):
    prompt = render_prompt(template, identifier=identifier, class_word="dog")
    assert read_prompt(prompt, template, identifier) == (True, SENTENCES[template])
    assert without_identifier(prompt, identifier) == SENTENCES[template]


@pytest.mark.parametrize("prompt", ["a Qwe dog", "a qwerty dog", "a qwe2 dog", "a dog's bed", "a  dog , red"])
def test_what_is_not_the_token_stays_as_it_is(prompt: str):
    assert read_prompt(prompt, prompt, "qwe") == (False, " ".join(prompt.split()))
    assert without_identifier("a dog's bed", "s") == "a dog's bed"


def test_placeholders_decide_and_not_words():
    assert read_prompt("a toy on a toy shelf", "a {class_word} on a toy shelf", "toy") == (
        False,
        "a toy on a toy shelf",
    )
    assert read_prompt("a toy toy here", "a {identifier} {class_word} here", "toy") == (True, "a toy here")
    assert read_prompt("a sks dog here", "a {identifier} {class_word} here", "qwe") == (True, "a dog here")
    assert read_prompt("a qwe dog here", "a qwe dog here", "qwe") == (True, "a dog here")


@pytest.mark.parametrize("is_live", [True, False])
def test_benchmark_prompts_lose_the_token_and_nothing_else(is_live: bool):
    for template in benchmark_prompts(is_live):
        prompt = render_prompt(template, identifier="qwe", class_word="wolf plushie")
        plain = render_prompt(template.replace("{identifier} ", ""), identifier="", class_word="wolf plushie")
        assert read_prompt(prompt, template, "qwe") == (True, plain) == (True, without_identifier(prompt, "qwe"))
