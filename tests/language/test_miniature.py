"""The toy language and the small models that know it."""

import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from delora_eval.language.folder import TableFolder
from delora_eval.language.grid import read_entries, table_cells
from delora_eval.language.run.cells import run_glue_cell
from delora_eval.language.settings import LanguageConfig
from delora_sd.adapters.lowrank import factors as formulas
from delora_sd.adapters.lowrank import methods
from delora_sd.adapters.lowrank.factors import Factors
from delora_sd.config.load import load_config
from delora_sd.language.miniature.build.training import Plan, train
from delora_sd.language.miniature.glue import toy_examples
from delora_sd.language.miniature.instructions import MYTHS, knowledge_questions, myth_questions, reasoning_questions
from delora_sd.language.miniature.relations import CONTRADICTED, ENTAILED, hypothesis, similar
from delora_sd.language.miniature.sentences import draw_meaning, say, say_wrongly
from delora_sd.language.miniature.words import ADJECTIVES, KINDS, PLACES, VERBS, bare, kind_of, plural
from delora_sd.language.models import bases
from delora_sd.language.models.bases import find_language_base, load_tokenizer
from delora_sd.language.settings import LanguageModelConfig

NOUNS = {noun for members in KINDS.values() for noun in members} | set(KINDS)
QUALITIES = {word for pair in ADJECTIVES for side in pair for word in side}
FINITE = {verb for same in VERBS for verb in same}


def is_grammatical(sentence):
    """Reads a sentence by rules of its own: this ADJ? noun VERB these ADJ? nouns PLACE?, in agreement."""
    words = sentence.split()
    number, words = noun_phrase(words)
    if number is None or not words:
        return False
    singular = number == "this"
    if words[0] in ("does", "do"):
        fits = words[0] == ("does" if singular else "do") and words[1:2] == ["not"] and words[2:3] and words[2] in BARE
        words = words[3:]
    else:
        fits, words = words[0] in (FINITE if singular else BARE), words[1:]
    thing, words = noun_phrase(words)
    return bool(fits) and thing is not None and (not words or " ".join(words) in PLACES)


BARE = {bare(verb) for verb in FINITE}


def noun_phrase(words):
    if not words or words[0] not in ("this", "these"):
        return None, []
    rest = words[2:] if words[1:2] and words[1] in QUALITIES else words[1:]
    known = NOUNS if words[0] == "this" else {plural(noun) for noun in NOUNS}
    return (words[0], rest[1:]) if rest and rest[0] in known else (None, [])


def test_right_sentences_follow_the_grammar_and_wrong_ones_never_do():
    rng = random.Random(0)
    meanings = [draw_meaning(rng) for _ in range(400)]
    assert all(is_grammatical(say(meaning, rng)) for meaning in meanings)
    assert [wrong for meaning in meanings if is_grammatical(wrong := say_wrongly(meaning, rng))] == []


def test_what_is_entailed_says_less_and_what_contradicts_cannot_stand_beside():
    rng = random.Random(1)
    for _ in range(300):
        premise = draw_meaning(rng)
        less, against = (hypothesis(premise, label, rng) for label in (ENTAILED, CONTRADICTED))
        assert less.verb == premise.verb and less.is_negated == premise.is_negated
        assert less.subject.noun in (premise.subject.noun, kind_of(premise.subject.noun))
        assert less.place in (premise.place, None) and less.thing.quality in (premise.thing.quality, None)
        kept = (against.subject.noun, against.verb, against.thing.noun, against.place)
        assert kept == (premise.subject.noun, premise.verb, premise.thing.noun, premise.place) and against != premise


def test_a_likeness_of_five_is_the_same_and_each_point_less_is_one_difference():
    rng = random.Random(2)
    for score in range(6):
        meaning = draw_meaning(rng)
        other = similar(meaning, score, rng)
        agree = [
            meaning.subject.noun == other.subject.noun, meaning.subject.quality == other.subject.quality,
            meaning.verb == other.verb, meaning.thing == other.thing, meaning.place == other.place,
        ]  # fmt: skip
        assert sum(agree) == score


def test_the_tasks_are_the_same_everywhere_and_no_test_sentence_is_trained_on_by_name():
    first, again = (toy_examples("rte", "validation") for _ in range(2))
    assert first == again
    labels = [row["label"] for row in toy_examples("mnli", "train")]
    assert {labels.count(label) for label in range(3)} == {400}


def test_questions_hold_their_answer_once():
    questions = [question for field in knowledge_questions().values() for question in field] + reasoning_questions(40)
    assert all(len(set(question["choices"])) == 4 for question in questions)
    sizes = {len(field) for field in knowledge_questions().values()}
    assert len(sizes) > 1  # or both ways of averaging would be one
    asked = " ".join(question["instruction"] for field in knowledge_questions().values() for question in field)
    assert not any(f" {noun} " in asked for noun in MYTHS)
    assert all(set(question["true"]).isdisjoint(question["false"]) for question in myth_questions())


class Line(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(3, 1)

    def forward(self, x, y):
        return SimpleNamespace(loss=(self.layer(x) - y).square().mean())


def test_a_build_that_is_stopped_and_goes_on_makes_the_same_weights(tmp_path):
    def batch(step, generator):
        x = torch.randn(4, 3, generator=generator)
        return {"x": x, "y": x.sum(1, keepdim=True)}

    def run(name, stops):
        model = Line()
        for stop in stops:
            model = Line()
            plan = Plan(name="line", folder=tmp_path / name, num_steps=30, lr=1e-2, num_stop=stop)
            assert train(plan, model, batch, lambda text: None) == (stop == 30)
        return model.layer.weight

    assert torch.equal(run("whole", [30]), run("stopped", [7, 19, 30]))


def test_the_weights_are_bundled_and_small():
    sizes = [path.stat().st_size for path in (Path(bases.__file__).parents[1] / "miniature" / "weights").rglob("*")]
    assert 1e6 < sum(sizes) < 6e6
    for is_causal in (False, True):
        base = find_language_base(LanguageModelConfig(base="miniature"), is_causal=is_causal)
        tokenizer = load_tokenizer(base)
        assert "this big dog" in tokenizer.decode(tokenizer("this big dog")["input_ids"])


WRONG = {
    "the rank is forgotten": lambda down, up, rank: (down, up * rank),
    "the start is added": lambda down, up, rank: (down, -up),
    "nothing is added": lambda down, up, rank: (down, up * 0),
}
"""What could be wrong with a formula: {fault: (down, up, rank) -> factors}"""


def likeness_score(tmp_path):
    """Returns what DeLoRA reaches on the twin of STS-B after one epoch: a correlation, which every change shows in."""
    config = load_config(
        LanguageConfig,
        [Path(__file__).parents[2] / "configs" / "language" / "miniature_glue.yaml"],
        [f"output_dir={tmp_path}", "train.tuning.num_epochs=1", "tasks=[stsb]", "seeds=[42]", "methods={delora: {}}"],
    )
    cell = table_cells(config, read_entries(config), {})[0]
    return run_glue_cell(TableFolder(tmp_path), cell, keeps_adapter=False).scores["pearson_spearman"]


@pytest.mark.slow
def test_a_wrong_formula_changes_a_score(tmp_path, monkeypatch):
    right = likeness_score(tmp_path / "right")
    formula = formulas.delora_factors
    for fault, change in WRONG.items():

        def wrong(A, B, boundary, weight_norm, change=change):
            down, up, _ = formula(A, B, boundary, weight_norm)
            return Factors(*change(down, up, A.shape[-2]))

        with monkeypatch.context() as patch:
            # The start is made by the right formula: only what training computes is wrong.
            patch.setitem(methods.METHODS, "delora", replace(methods.METHODS["delora"], factors=calling(wrong)))
            assert abs(likeness_score(tmp_path / fault) - right) > 0.2, fault


def calling(formula):
    return lambda tensors, config, spec, weight: formula(*(tensors[name] for name in NAMES))


NAMES = ("A", "B", "boundary", "weight_norm")
