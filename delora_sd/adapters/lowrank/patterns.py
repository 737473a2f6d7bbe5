"""Regular expressions on layer names, from settings and from strangers' files: valid, and quick on any name."""

import re
from typing import Any

from delora_sd.errors import UserError

_MAX_REPEATS = 3
"""`.*` in a pattern: each one more multiplies the time by the length of the name."""

_ESCAPED = re.compile(r"\\.|\[[^\]]*\]", re.DOTALL)
_REPEATED_GROUP = re.compile(r"\)[*+{]")
"""A repeated group that holds a repetition takes years: (a+)+"""


def check_pattern(pattern: Any, *, source: str) -> None:
    """Raises UserError for a pattern that is none, or that could keep a computer busy for years."""
    text = str(pattern)
    shown = text if len(text) <= 80 else f"{text[:77]}..."
    plain = _ESCAPED.sub("x", text)
    if _REPEATED_GROUP.search(plain) or sum(map(plain.count, "*+{")) > _MAX_REPEATS:
        raise UserError(f"{source}: '{shown}' repeats too much; write layer names, with at most {_MAX_REPEATS} `.*`")
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{source}: '{shown}' is no regular expression ({error})") from None


def pattern_value(pattern: dict[str, float] | None, layer: str, default: float, *, source: str) -> float:
    """Returns the value PEFT would use: its keys match the end of a layer's name from a dot on.

    Raises:
        UserError: a pattern that is no regular expression; `source` names the file.
    """
    for key, value in (pattern or {}).items():
        check_pattern(key, source=source)
        if re.match(rf"(.*\.)?({key})$", layer):
            return value
    return default
