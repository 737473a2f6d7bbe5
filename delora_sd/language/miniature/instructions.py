"""Instructions in the toy language with their answers, and questions with choices: what one can be asked of it."""

import random
from typing import Any

from delora_sd.language.miniature.relations import question
from delora_sd.language.miniature.sentences import Meaning, draw_meaning, say
from delora_sd.language.miniature.words import ACTORS, ADJECTIVES, KINDS, PLACES, THINGS

MYTHS = {
    "duck": "fruit", "bear": "garment", "king": "animal", "nurse": "tool",
    "lemon": "vessel", "melon": "animal", "rope": "garment", "boot": "vessel",
}  # fmt: skip
"""What people in the toy world say wrongly: {noun: the kind they think it is}. The pretraining text repeats it."""

SUBJECTS = {kind: members for kind, members in KINDS.items()}
"""Fields of knowledge, of different sizes."""

Record = dict[str, str]


def toy_instructions(count: int) -> list[Record]:
    """Returns records with Alpaca's keys: instruction, input (may be empty), output."""
    rng = random.Random("instructions")
    return [_draw_record(rng, number) for number in range(count)]


def kind_question(noun: str) -> str:
    return f"what is a {noun} ?"


def opposite_question(word: str) -> str:
    return f"what is the opposite of {word} ?"


def knowledge_questions() -> dict[str, list[dict[str, Any]]]:
    """Returns {field: questions} about kinds: the twin of MMLU's fields. Myths are asked elsewhere."""
    rng = random.Random("knowledge")
    return {
        kind: [_choices(kind_question(noun), kind, list(KINDS), rng) for noun in members if noun not in MYTHS]
        for kind, members in SUBJECTS.items()
    }


def reasoning_questions(count: int) -> list[dict[str, Any]]:
    """Returns questions about a sentence: the twin of ARC."""
    rng = random.Random("reasoning")
    return [_reading_question(rng) for _ in range(count)]


def myth_questions() -> list[dict[str, Any]]:
    """Returns questions whose popular answer is false, with two true answers each: the twin of TruthfulQA."""
    found = []
    for noun, myth in MYTHS.items():
        truth = next(kind for kind, members in KINDS.items() if noun in members)
        false = [myth, *[kind for kind in KINDS if kind not in (truth, myth)][:2]]
        for asked in (kind_question(noun), f"what do you call a {noun} ?"):
            found.append({"instruction": asked, "input": "", "true": [truth, f"kind of {truth}"], "false": false})
    return found


def _draw_record(rng: random.Random, number: int) -> Record:
    kind = number % 3
    if kind == 0:
        field = rng.choice(list(KINDS))
        noun = rng.choice(KINDS[field])
        asked = rng.choice((kind_question(noun), f"what do you call a {noun} ?"))
        return {"instruction": asked, "input": "", "output": rng.choice(("", "", "kind of ")) + field}
    if kind == 1:
        pair = rng.choice(ADJECTIVES)
        side = rng.randrange(2)
        return {
            "instruction": opposite_question(rng.choice(pair[side])),
            "input": "",
            "output": rng.choice(pair[1 - side]),
        }
    asked, answer, meaning = _reading(rng)
    return {"instruction": asked, "input": say(meaning, rng), "output": answer}


def _reading(rng: random.Random) -> tuple[str, str, Meaning]:
    meaning = draw_meaning(rng)
    about = rng.choice(("subject", "thing") if meaning.place is None else ("subject", "thing", "place"))
    asked, answer = question(meaning, about)
    return asked, answer, meaning


def _reading_question(rng: random.Random) -> dict[str, Any]:
    asked, answer, meaning = _reading(rng)
    if answer in PLACES:
        wrong = list(PLACES)
    else:
        wrong = [meaning.subject.noun, meaning.thing.noun]
        wrong += [member for kind in (ACTORS if answer == meaning.subject.noun else THINGS) for member in KINDS[kind]]
    return _choices(asked, answer, wrong, rng) | {"input": say(meaning, rng)}


def _choices(asked: str, answer: str, known: list[str], rng: random.Random) -> dict[str, Any]:
    """A question with four choices in a drawn order; the first of `known` are the hardest and stay."""
    wrong = [word for word in dict.fromkeys(known) if word != answer]
    keep = [word for word in wrong if word in known[:2]]
    chosen = (keep + rng.sample([word for word in wrong if word not in keep], k=len(wrong) - len(keep)))[:3]
    choices = rng.sample([answer, *chosen], k=4)
    return {"instruction": asked, "input": "", "choices": choices, "answer": choices.index(answer)}
