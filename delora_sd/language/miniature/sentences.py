"""Sentences of the toy language as meanings, how they are said, and how they can be said wrongly."""

import random
from dataclasses import dataclass, replace

from delora_sd.language.miniature.words import (
    ACTORS,
    ADJECTIVES,
    KINDS,
    PLACES,
    THINGS,
    VERBS,
    bare,
    plural,
)


@dataclass(frozen=True, kw_only=True)
class Phrase:
    """A noun with its determiner's number and perhaps an adjective (pair, side); words are chosen when it is said."""

    noun: str
    is_plural: bool = False
    quality: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Meaning:
    """Who does what to what, where; `verb` counts VERBS, `place` counts PLACES."""

    subject: Phrase
    verb: int
    thing: Phrase
    place: int | None = None
    is_negated: bool = False


def draw_meaning(rng: random.Random) -> Meaning:
    return Meaning(
        subject=_draw_phrase(rng, ACTORS),
        verb=rng.randrange(len(VERBS)),
        thing=_draw_phrase(rng, THINGS),
        place=rng.randrange(len(PLACES)) if rng.random() < 0.6 else None,
        is_negated=rng.random() < 0.15,
    )


def say(meaning: Meaning, rng: random.Random) -> str:
    """Returns one way to say it: among words of the same meaning one is drawn."""
    return " ".join(_words(meaning, rng))


def say_wrongly(meaning: Meaning, rng: random.Random) -> str:
    """Returns the sentence with one fault of grammar: agreement, the determiner, the order, a word twice or missing."""
    words = _words(meaning, rng)
    fault = rng.choice((_wrong_agreement, _wrong_determiner, _swapped, _doubled, _dropped))
    return " ".join(fault(meaning, words, rng))


def other_noun(noun: str, rng: random.Random) -> str:
    """Returns another noun of the same group, actors or things."""
    group = ACTORS if any(noun in (kind, *KINDS[kind]) for kind in ACTORS) else THINGS
    return rng.choice([member for kind in group for member in KINDS[kind] if member != noun])


def opposite(phrase: Phrase) -> Phrase:
    """Returns the phrase with the opposite quality."""
    pair, side = phrase.quality
    return replace(phrase, quality=(pair, 1 - side))


def draw_quality(rng: random.Random) -> tuple[int, int]:
    return rng.randrange(len(ADJECTIVES)), rng.randrange(2)


def _draw_phrase(rng: random.Random, kinds: tuple[str, ...]) -> Phrase:
    quality = draw_quality(rng) if rng.random() < 0.6 else None
    return Phrase(noun=rng.choice(KINDS[rng.choice(kinds)]), is_plural=rng.random() < 0.4, quality=quality)


def _words(meaning: Meaning, rng: random.Random) -> list[str]:
    verb = rng.choice(VERBS[meaning.verb])
    if meaning.is_negated:
        action = ["do" if meaning.subject.is_plural else "does", "not", bare(verb)]
    else:
        action = [bare(verb) if meaning.subject.is_plural else verb]
    where = [] if meaning.place is None else PLACES[meaning.place].split()
    return [*_noun_words(meaning.subject, rng), *action, *_noun_words(meaning.thing, rng), *where]


def _noun_words(phrase: Phrase, rng: random.Random) -> list[str]:
    determiner = "these" if phrase.is_plural else "this"
    adjective = [] if phrase.quality is None else [rng.choice(ADJECTIVES[phrase.quality[0]][phrase.quality[1]])]
    return [determiner, *adjective, plural(phrase.noun) if phrase.is_plural else phrase.noun]


def _wrong_agreement(meaning: Meaning, words: list[str], rng: random.Random) -> list[str]:
    both = {verb: bare(verb) for same in VERBS for verb in same} | {"does": "do"}
    both |= {plain: full for full, plain in both.items()}
    place = next(index for index, word in enumerate(words) if word in both)
    return [*words[:place], both[words[place]], *words[place + 1 :]]


def _wrong_determiner(meaning: Meaning, words: list[str], rng: random.Random) -> list[str]:
    place = rng.choice([index for index, word in enumerate(words) if word in ("this", "these")])
    return [*words[:place], "this" if words[place] == "these" else "these", *words[place + 1 :]]


def _swapped(meaning: Meaning, words: list[str], rng: random.Random) -> list[str]:
    place = rng.randrange(len(words) - 1)
    return [*words[:place], words[place + 1], words[place], *words[place + 2 :]]


def _doubled(meaning: Meaning, words: list[str], rng: random.Random) -> list[str]:
    place = rng.randrange(len(words))
    return [*words[: place + 1], *words[place:]]


def _dropped(meaning: Meaning, words: list[str], rng: random.Random) -> list[str]:
    """Never an adjective: without it the sentence would be right."""
    optional = {word for pair in ADJECTIVES for side in pair for word in side}
    end = len(words) - (0 if meaning.place is None else 3)
    place = rng.choice([index for index, word in enumerate(words[:end]) if word not in optional])
    return [*words[:place], *words[place + 1 :]]
