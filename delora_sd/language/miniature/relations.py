"""What one sentence says about another, how alike two are, and what a review thinks: the labels of the toy tasks."""

import random
from dataclasses import replace

from delora_sd.language.miniature.sentences import Meaning, Phrase, draw_quality, opposite, other_noun
from delora_sd.language.miniature.words import BLAME, PLACES, PRAISE, TOPICS, VERBS, kind_of

ENTAILED, NEUTRAL, CONTRADICTED = 0, 1, 2
"""As MNLI counts them."""


def entailed(premise: Meaning, rng: random.Random) -> Meaning:
    """Returns something the premise says, too: less of it, or its nouns by their kind."""
    changes = [lambda m: m]
    if premise.place is not None:
        changes.append(lambda m: replace(m, place=None))
    for part in ("subject", "thing"):
        phrase: Phrase = getattr(premise, part)
        if phrase.quality is not None:
            changes.append(lambda m, part=part: replace(m, **{part: replace(getattr(m, part), quality=None)}))
        changes.append(lambda m, part=part: replace(m, **{part: _by_kind(getattr(m, part))}))
    if premise.is_negated:  # "does not carry this apple" says nothing of fruit
        changes = changes[:1]
    for change in rng.sample(changes, k=min(len(changes), rng.choice((1, 2)))):
        premise = change(premise)
    return premise


def contradicted(premise: Meaning, rng: random.Random) -> Meaning:
    """Returns what cannot be true beside the premise: its negation, or an opposite quality."""
    parts = [part for part in ("subject", "thing") if getattr(premise, part).quality is not None]
    if premise.is_negated or not parts or rng.random() < 0.5:
        return replace(premise, is_negated=not premise.is_negated)
    part = rng.choice(parts)
    return replace(premise, **{part: opposite(getattr(premise, part))})


def neutral(premise: Meaning, rng: random.Random) -> Meaning:
    """Returns what the premise leaves open: another noun, another verb, a quality or a place it does not speak of."""
    choices = [
        lambda m: replace(m, subject=replace(m.subject, noun=other_noun(m.subject.noun, rng))),
        lambda m: replace(m, thing=replace(m.thing, noun=other_noun(m.thing.noun, rng))),
        lambda m: replace(m, verb=_other(m.verb, len(VERBS), rng)),
    ]
    if premise.place is None:
        choices.append(lambda m: replace(m, place=rng.randrange(len(PLACES))))
    if premise.thing.quality is None:
        choices.append(lambda m: replace(m, thing=replace(m.thing, quality=draw_quality(rng))))
    return rng.choice(choices)(premise)


def hypothesis(premise: Meaning, label: int, rng: random.Random) -> Meaning:
    """Returns a sentence that stands to the premise as the label says."""
    return (entailed, neutral, contradicted)[label](premise, rng)


def similar(meaning: Meaning, score: int, rng: random.Random) -> Meaning:
    """Returns a meaning of which `score` of five parts agree: subject, its quality, verb, thing, place."""
    parts = rng.sample(range(5), k=5 - score)
    subject, thing = meaning.subject, meaning.thing
    if 0 in parts:
        subject = replace(subject, noun=other_noun(subject.noun, rng))
    if 1 in parts:
        subject = opposite(subject) if subject.quality is not None else replace(subject, quality=draw_quality(rng))
    if 3 in parts:
        thing = replace(thing, noun=other_noun(thing.noun, rng))
    return replace(
        meaning,
        subject=subject,
        thing=thing,
        verb=_other(meaning.verb, len(VERBS), rng) if 2 in parts else meaning.verb,
        place=_other(meaning.place, len(PLACES), rng) if 4 in parts else meaning.place,
    )


def review(is_praise: bool, rng: random.Random) -> str:
    """Returns a review: one or two clauses, `not` turns a clause round, and after `but` comes what counts."""
    last = _clause(is_praise, rng)
    if rng.random() < 0.5:
        return last
    joined = rng.choice(("and", "but"))
    return f"{_clause(is_praise == (joined == 'and'), rng)} {joined} {last}"


def question(meaning: Meaning, about: str) -> tuple[str, str]:
    """Returns (question, answer) about the subject, the thing or the place of a sentence said without `not`."""
    if about == "place":
        return "where does it happen ?", PLACES[meaning.place]
    phrase = meaning.subject if about == "subject" else meaning.thing
    return ("who does it ?" if about == "subject" else "what is it done to ?"), phrase.noun


def _clause(is_praise: bool, rng: random.Random) -> str:
    is_turned = rng.random() < 0.35
    words = PRAISE if is_praise != is_turned else BLAME
    degree = rng.choice(("", "very ", "quite "))
    return f"the {rng.choice(TOPICS)} was {'not ' if is_turned else ''}{degree}{rng.choice(words)}"


def _by_kind(phrase: Phrase) -> Phrase:
    return replace(phrase, noun=kind_of(phrase.noun))


def _other(value: int | None, count: int, rng: random.Random) -> int:
    return rng.choice([index for index in range(count) if index != value])
