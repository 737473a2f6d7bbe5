"""Templates with `{identifier}` and `{class_word}`, and the prompts they become. Text only, no tokenizer."""

import re
from dataclasses import dataclass
from pathlib import Path

from delora_sd.config.text import first_control_character, lines_of, read_text
from delora_sd.data.subjects import dreambooth
from delora_sd.errors import UserError, nearest_name

PLACEHOLDERS = ("identifier", "class_word")
MAX_PROMPT_FILE_BYTES = 1_000_000

_PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
_BREAKS = re.compile(r"[\t\r\n]+")
"""Tabs and line breaks are spaces to every tokenizer."""


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One prompt of a list."""

    index: int
    """Position in its list."""
    template: str
    text: str
    """The template with its placeholders filled."""


def render_prompt(template: str, *, identifier: str, class_word: str | None) -> str:
    """Returns the template with its placeholders filled.

    Raises:
        UserError: empty, unknown placeholder, control characters.
    """
    for name in _PLACEHOLDER.findall(template):
        if name not in PLACEHOLDERS:
            raise UserError(f"prompt '{_show(template)}': unknown placeholder {{{name}}}{_nearest(name)}")
        if name == "class_word" and class_word is None:
            raise UserError(f"prompt '{_show(template)}' needs data.class_word: what the subject is, such as dog")
    text = template.replace("{identifier}", identifier).replace("{class_word}", class_word or "")
    text = _BREAKS.sub(" ", text).strip()
    if not text:
        raise UserError("a prompt is empty; write what the image should show")
    control = first_control_character(text)
    if control is not None:
        raise UserError(f"prompt '{_show(text)}': control character {control!r} is not accepted; remove it")
    return text


def instance_prompt(template: str, *, identifier: str, class_word: str) -> str:
    """Returns the caption of the subject's photos; it must name the subject, else nothing could call it up."""
    if "{identifier}" not in template:
        raise UserError(f"data.instance_template '{_show(template)}' lacks {{identifier}}, the token to be learned")
    if not identifier.strip():
        raise UserError("data.identifier is empty; expected a rare token such as qwe")
    return render_prompt(template, identifier=identifier, class_word=class_word)


def class_prompt(template: str, *, class_word: str) -> str:
    """Returns the caption of the class images; it must not name the subject, or it would be forgotten."""
    if "{identifier}" in template:
        raise UserError(f"data.class_template '{_show(template)}' must not hold {{identifier}}: it names the class")
    return render_prompt(template, identifier="", class_word=class_word)


def benchmark_prompts(is_live: bool) -> tuple[str, ...]:
    """Returns the 25 templates of the DreamBooth benchmark for animals and people, or for objects."""
    return tuple(dreambooth()["prompts"]["live" if is_live else "object"])


def load_prompts(spec: tuple[str, ...], *, identifier: str, class_word: str | None, is_live: bool) -> list[Prompt]:
    """Returns the prompts a setting asks for: `dreambooth`, `class`, text files, or the prompts themselves.

    Args:
        class_word: None when nobody said it; then no prompt may need it.

    Raises:
        UserError: no prompt at all, an unreadable file, or a prompt `render_prompt` refuses.
    """
    templates = [template for entry in spec for template in _templates(entry, is_live=is_live)]
    if not templates:
        raise UserError("prompts is empty; expected `dreambooth`, `class`, a text file or prompts")
    return [
        Prompt(index=i, template=template, text=render_prompt(template, identifier=identifier, class_word=class_word))
        for i, template in enumerate(templates)
    ]


def _templates(entry: str, *, is_live: bool) -> list[str]:
    if entry == "dreambooth":
        return list(benchmark_prompts(is_live))
    if entry == "class":
        return [template.replace("{identifier} ", "") for template in benchmark_prompts(is_live)]
    return _read_templates(Path(entry).expanduser()) if _is_file_name(entry) else [entry]


def _is_file_name(entry: str) -> bool:
    """A prompt is never taken for a file: file names end with .txt."""
    return entry.endswith(".txt") and "\n" not in entry


def _read_templates(file: Path) -> list[str]:
    """Returns the lines of the file that are neither empty nor `# comments`."""
    try:
        if file.exists() and not file.is_file():
            raise UserError(f"prompt file {file}: is not a file but a folder or a device")
        if file.stat().st_size > MAX_PROMPT_FILE_BYTES:
            raise UserError(f"prompt file {file}: more than {MAX_PROMPT_FILE_BYTES} bytes is no list of prompts")
        lines = lines_of(read_text(file))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not UTF-8 text (nor UTF-16 with its mark)"
        raise UserError(f"prompt file {file}: {reason}") from None
    templates = [line for line in lines if not line.startswith("#")]
    if not templates:
        raise UserError(f"prompt file {file}: no prompts in it; expected one per line")
    return templates


def _nearest(name: str) -> str:
    return nearest_name(name, PLACEHOLDERS).replace("known: ", "known placeholders: ")


def _show(text: str, limit: int = 80) -> str:
    """Returns the text short and printable, for a one-line message."""
    printable = "".join(character if character.isprintable() else "?" for character in text)
    return printable if len(printable) <= limit else printable[: limit - 3] + "..."
