"""Does a prompt name the subject, and what does it say without the rare token? Text only."""

import re

_PAIRS = ("()", "[]", "{}", "<>", '""', "''", "“”", "‘’", "**", "__")
_SEPARATORS = ",;:"
_ENDS = ".!?"
_MARK = "\0"
"""Stands for the token; no prompt can hold it."""


def read_prompt(prompt: str, template: str, identifier: str) -> tuple[bool, str]:
    """Returns (it names the subject, the prompt without the token).

    A template's placeholders decide. Without a template, or in one that was typed without placeholders, the token
    itself does, wherever it stands as a word of its own.
    """
    if "{identifier}" in template or "{class_word}" in template:
        marked = _mark_template(prompt, template, identifier)
        if marked is not None:
            return "{identifier}" in template, _without_marks(marked)
    marked = _mark_words(prompt, identifier)
    return _MARK in marked, _without_marks(marked)


def without_identifier(prompt: str, identifier: str) -> str:
    """Returns `a dog in the snow` for `a qwe dog in the snow`, and `a dog` for `qwe, a dog` or `(qwe's) a dog`."""
    return _without_marks(_mark_words(prompt, identifier))


def _mark_template(prompt: str, template: str, identifier: str) -> str | None:
    """Returns the prompt with a mark where the template has the token; None when it is not made from this template."""
    tokens = [re.escape(identifier.strip())] if identifier.strip() else []
    for token in (*tokens, ".+?"):  # the images may have been drawn with another token
        pieces, seen = [], set()
        for piece in re.split(r"(\{identifier\}|\{class_word\})", template.strip()):
            name = piece[1:-1] if piece in ("{identifier}", "{class_word}") else None
            if name is None:
                pieces.append(re.escape(piece))
            elif name in seen:
                pieces.append(f"(?P={name})")
            else:
                pieces.append(f"(?P<{name}>{token if name == 'identifier' else '.+?'})")
                seen.add(name)
        if found := re.fullmatch("".join(pieces), prompt.strip()):
            word = found.groupdict().get("class_word", "")
            return template.strip().replace("{identifier}", _MARK).replace("{class_word}", word)
    return None


def _mark_words(prompt: str, identifier: str) -> str:
    """Returns the prompt with a mark for each token that stands alone; the s of `dog's` does not."""
    words = identifier.split()
    if not words:
        return prompt
    token = r"\s+".join(map(re.escape, words))
    return re.sub(rf"(?<!\w)(?<!\w['’]){token}(?!\w)", _MARK, prompt)


def _without_marks(text: str) -> str:
    """Returns the text without its marks and what belonged to them: 's, brackets, the comma behind, spaces."""
    while _MARK in text:
        left, _, right = text.partition(_MARK)
        text = _close(left, right)
    return " ".join(text.split())


def _close(left: str, right: str) -> str:
    right = re.sub(r"^['’]s(?!\w)", "", right)
    while left and right and left[-1] + right[0] in _PAIRS:
        left, right = left[:-1], right[1:]
    left, right = re.sub(r"(?<=\w)-$", " ", left).rstrip(), re.sub(r"^-(?=\w)", "", right)
    right = right.lstrip().lstrip(_SEPARATORS).lstrip()
    if not left:
        return right.lstrip(_SEPARATORS + _ENDS).lstrip()
    if not right or right[0] in _ENDS:
        left = left.rstrip(_SEPARATORS + " ")
    is_tight = not right or right[0] in _SEPARATORS + _ENDS + ")]}" or left[-1:] in ("(", "[", "{")
    return left + right if is_tight else f"{left} {right}"
