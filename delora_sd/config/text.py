"""Text as people's editors wrote it: byte order marks, UTF-16 and line ends of other systems are read, not refused."""

import codecs
import json
import re
import unicodedata
from pathlib import Path
from typing import Any

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_LINE_ENDS = re.compile(r"\r\n?")


def read_text(path: Path) -> str:
    """Returns the file's text without its mark, lines ended by \\n; UTF-8 unless a mark says otherwise.

    Raises:
        OSError, UnicodeDecodeError: not to be read, or no text in that encoding.
    """
    return decode_text(path.read_bytes())


def decode_text(data: bytes) -> str:
    """Returns the text of a file's bytes, as `read_text`."""
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _LINE_ENDS.sub("\n", data[len(mark) :].decode(encoding))
    return _LINE_ENDS.sub("\n", data.decode("utf-8"))


def read_json_text(path: Path) -> Any:
    """Returns the parsed JSON file. Raises OSError or ValueError."""
    return json.loads(read_text(path))


def lines_of(text: str) -> list[str]:
    """Returns the lines, stripped, without empty ones. What a web page pastes in (U+2028, U+0085) ends no line."""
    return [stripped for line in text.split("\n") if (stripped := line.strip())]


def first_control_character(text: str) -> str | None:
    """Returns the first character that steers a machine and shows nothing (category Cc), or half of one; None: clean.

    Joiners, marks of direction, soft hyphens, odd spaces and emoji newer than Python's tables belong to writing.
    """
    return next((character for character in text if unicodedata.category(character) in ("Cc", "Cs")), None)
