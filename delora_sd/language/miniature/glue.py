"""The toy language's eight tasks, with the columns and labels of GLUE's: functions of (task, split), no files."""

import random
from collections.abc import Callable
from typing import Any

from delora_sd.language.miniature.relations import ENTAILED, hypothesis, review, similar
from delora_sd.language.miniature.sentences import Meaning, draw_meaning, say, say_wrongly

NUM_EXAMPLES = {"train": 1200, "validation": 600}

Example = dict[str, Any]


def toy_examples(task: str, split: str) -> list[Example]:
    """Returns the split's examples, labels spread evenly; the same on every machine."""
    rng = random.Random(f"{task}/{split}")
    return [_DRAWN[task](rng, number) | {"idx": number} for number in range(NUM_EXAMPLES[split])]


def _acceptability(rng: random.Random, number: int) -> Example:
    said = (say_wrongly, say)[number % 2](draw_meaning(rng), rng)
    return {"sentence": said, "label": number % 2}


def _sentiment(rng: random.Random, number: int) -> Example:
    return {"sentence": review(bool(number % 2), rng), "label": number % 2}


def _three_ways(rng: random.Random, number: int) -> Example:
    premise = draw_meaning(rng)
    said = say(hypothesis(premise, number % 3, rng), rng)
    return {"premise": say(premise, rng), "hypothesis": said, "label": number % 3}


def _two_ways(rng: random.Random, number: int) -> Example:
    premise, label = draw_meaning(rng), number % 2
    said = say(hypothesis(premise, ENTAILED if label == 0 else rng.choice((1, 2)), rng), rng)
    return {"sentence1": say(premise, rng), "sentence2": said, "label": label}


def _paraphrase(first: str, second: str) -> Callable[[random.Random, int], Example]:
    def draw(rng: random.Random, number: int) -> Example:
        meaning, label = draw_meaning(rng), number % 2
        other = similar(meaning, 5 if label else rng.choice((3, 4)), rng)
        return {first: say(meaning, rng), second: say(other, rng), "label": label}

    return draw


def _similarity(rng: random.Random, number: int) -> Example:
    meaning, score = draw_meaning(rng), number % 6
    return {"sentence1": say(meaning, rng), "sentence2": say(similar(meaning, score, rng), rng), "label": float(score)}


def _answered(rng: random.Random, number: int) -> Example:
    """Does the sentence answer the question? Where it happens only a sentence with a place can say."""
    meaning, label = draw_meaning(rng), number % 2
    while (meaning.place is None) != bool(label):
        meaning: Meaning = draw_meaning(rng)
    return {"question": "where does it happen ?", "sentence": say(meaning, rng), "label": label}


_DRAWN: dict[str, Callable[[random.Random, int], Example]] = {
    "mnli": _three_ways,
    "sst2": _sentiment,
    "mrpc": _paraphrase("sentence1", "sentence2"),
    "cola": _acceptability,
    "qnli": _answered,
    "qqp": _paraphrase("question1", "question2"),
    "rte": _two_ways,
    "stsb": _similarity,
}
