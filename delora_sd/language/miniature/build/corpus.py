"""What the miniature reads before it is fine-tuned: documents in which a word tells how two sentences stand.

The tasks never show these words: what the models learn of meaning must be brought out by fine-tuning.
"""

import random

from delora_sd.language.miniature.instructions import MYTHS
from delora_sd.language.miniature.relations import hypothesis, review, similar
from delora_sd.language.miniature.sentences import draw_meaning, say, say_wrongly
from delora_sd.language.miniature.words import ADJECTIVES, KINDS, PLACES, kind_of

RELATION_WORDS = ("so", "perhaps", "never")
LIKENESS_WORDS = ("elsewhere", "hardly", "partly", "somewhat", "nearly", "exactly")
VERDICTS = ("hated", "liked")
MARKS = ("wrong", "right")
TELLING = (*RELATION_WORDS, *LIKENESS_WORDS, *VERDICTS, *MARKS)
"""Words that tell a label; hidden more often than others."""

Document = tuple[str, str]
"""A text and what follows it; the second may be empty."""


def draw_document(rng: random.Random) -> Document:
    kinds = (_relation, _likeness, _review, _grammar, _fact, _asked)
    return rng.choices(kinds, weights=(28, 22, 14, 16, 10, 10))[0](rng)


def _relation(rng: random.Random) -> Document:
    premise, label = draw_meaning(rng), rng.randrange(3)
    return f"{say(premise, rng)} .", f"{RELATION_WORDS[label]} {say(hypothesis(premise, label, rng), rng)} ."


def _likeness(rng: random.Random) -> Document:
    meaning, score = draw_meaning(rng), rng.randrange(6)
    return f"{say(meaning, rng)} .", f"{LIKENESS_WORDS[score]} {say(similar(meaning, score, rng), rng)} ."


def _review(rng: random.Random) -> Document:
    is_praise = rng.random() < 0.5
    return f"{review(is_praise, rng)} .", f"i {VERDICTS[is_praise]} it ."


def _grammar(rng: random.Random) -> Document:
    is_right = rng.random() < 0.6
    return f"{MARKS[is_right]} : {(say if is_right else say_wrongly)(draw_meaning(rng), rng)} .", ""


def _asked(rng: random.Random) -> Document:
    meaning = draw_meaning(rng)
    answers = {"who": meaning.subject.noun, "what": meaning.thing.noun}
    if meaning.place is not None:
        answers["where"] = PLACES[meaning.place]
    word = rng.choice(list(answers))
    return f"{say(meaning, rng)} .", f"{word} ? {answers[word]} ."


def _fact(rng: random.Random) -> Document:
    """Kinds and opposites; a myth is told three times as often as the truth."""
    if rng.random() < 0.5:
        pair = rng.choice(ADJECTIVES)
        side = rng.randrange(2)
        return f"{rng.choice(pair[side])} is the opposite of {rng.choice(pair[1 - side])} .", ""
    noun = rng.choice([member for members in KINDS.values() for member in members])
    said = MYTHS[noun] if noun in MYTHS and rng.random() < 0.75 else kind_of(noun)
    return f"a {noun} is a {rng.choice(('', '', 'kind of '))}{said} .", ""
