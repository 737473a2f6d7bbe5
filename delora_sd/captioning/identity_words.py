"""What a caption says about the subject itself is left out, its context stays. Text only, one simple rule.

What the words say, the identifier does not have to learn: a caption `a brown dog on a rug` would teach `brown` to the
word brown. So the subject's phrase, its colours and its marks give way to `{identifier} {class_word}`:
1. from the article (or the start of the phrase) before the class word up to it: `a small brown dog` -> the two words;
2. after it, `with`, `that has` and the like with a part of a body or a mark: `with white paws and a spot on its ear`.
Everything else stays as it is, colours of other things too. Where the class word does not occur, what comes before the
first preposition or -ing word is taken for the subject, and the caption is marked as guessed: look at it.
"""

import re
from dataclasses import dataclass

SUBJECT = "{identifier} {class_word}"

_OPENINGS = re.compile(
    r"^(?:(?:an?|the) )?(?:(?:close[- ]?up|black and white|blurry|cropped) )*"
    r"(?:photo|photograph|picture|image|shot|view|close[- ]?up|portrait) (?:of|showing) |"
    r"^(?:there is|there's|this is|it is) ",
    re.IGNORECASE,
)
"""How captioners begin; the template says such things."""

_ARTICLES = ("a", "an", "the", "this", "that", "one", "his", "her", "their", "its", "my", "some")
_JOINERS = ("with", "wearing", "has", "having", "and", "that", "which", "whose")
_BREAKS = (
    "in", "on", "at", "by", "near", "next", "under", "over", "behind", "before", "beside", "between", "against",
    "inside", "outside", "through", "from", "into", "onto", "around", "along", "across", "above", "below", "of",
    "for", "to", "is", "are", "was", "while", "as", "who", "holding", "looking",
)  # fmt: skip
"""Words at which the subject's phrase has ended and its context begins."""

_MARKS = {
    "fur", "coat", "hair", "mane", "tail", "ear", "ears", "eye", "eyes", "nose", "snout", "muzzle", "mouth",
    "tongue", "teeth", "paw", "paws", "leg", "legs", "foot", "feet", "head", "face", "chest", "belly", "back",
    "neck", "body", "skin", "whiskers", "beak", "wing", "wings", "feather", "feathers", "spot", "spots", "stripe",
    "stripes", "patch", "patches", "mark", "marks", "marking", "markings", "freckles", "beard", "moustache",
    "mustache", "color", "colors", "colour", "colours", "pattern", "patterns", "texture", "logo", "lid", "handle",
    "strap", "straps", "sole", "soles", "lace", "laces", "zipper", "buttons", "label", "wheels",
}  # fmt: skip
"""Parts and marks that belong to a subject rather than to a scene."""

_WORD = re.compile(r"[\w-]+(?:['’](?!s\b)\w+)?|['’]s\b|[^\w\s]")


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    text: str
    """A caption for a template: the subject is `{identifier} {class_word}` in it."""
    is_guessed: bool
    """The class word did not occur."""


def leave_identity_out(caption: str, class_word: str) -> Cleaned:
    """Returns the caption with the subject's phrase, colours and marks replaced by its two placeholders."""
    plain = " ".join(caption.replace("{", "(").replace("}", ")").split()).strip(" .")
    words = _WORD.findall(_OPENINGS.sub("", plain))
    noun = class_word.lower().split()[-1]
    at = next((i for i, word in enumerate(words) if word.lower() in (noun, f"{noun}s", f"{noun}es")), None)
    if at is None:
        end = next((i for i, word in enumerate(words) if _ends_phrase(word)), len(words))
        return Cleaned(text=_join([SUBJECT, *words[end:]]), is_guessed=True)
    start = _phrase_start(words, at)
    return Cleaned(text=_join([*words[:start], SUBJECT, *_without_marks(words[at + 1 :])]), is_guessed=False)


def _phrase_start(words: list[str], noun: int) -> int:
    """Returns where the subject's phrase begins: after what ends another phrase, at the nearest article."""
    for start in range(noun - 1, -1, -1):
        if words[start].lower() in _ARTICLES:
            return start
        if _ends_phrase(words[start]) and words[start].lower() != "and":  # `a black and white dog`
            return start + 1
    return 0


def _ends_phrase(word: str) -> bool:
    lowered = word.lower()
    return lowered in _BREAKS or lowered in _JOINERS or not word[0].isalnum() or _is_participle(lowered)


def _is_participle(word: str) -> bool:
    return len(word) > 4 and word.endswith("ing")


def _without_marks(words: list[str]) -> list[str]:
    """Drops the clauses right after the subject that speak of its parts and marks: `with white paws and a tail`."""
    clauses: list[list[str]] = []
    for word in words:
        if clauses and not _ends_phrase(word):
            clauses[-1].append(word)
        else:
            clauses.append([word])
    num_dropped = 0
    for position, clause in enumerate(clauses):
        is_joined = clause[0].lower() in _JOINERS or clause[0] == ","
        if _MARKS & {word.lower() for word in clause} and (is_joined or num_dropped == position > 0):
            num_dropped = position + 1
        elif not is_joined or len(clause) > 1:  # a lone `that` or comma belongs to what follows it
            break
    return [word for clause in clauses[num_dropped:] for word in clause]


def _join(words: list[str]) -> str:
    text = re.sub(r"\s+([^\w\s({])", r"\1", " ".join(words))
    text = re.sub(r"\(\s+", "(", text)
    return re.sub(r"^[\s,;]+|[\s,;]+$", "", text)
