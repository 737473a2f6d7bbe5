"""Small pieces of HTML that all rooms share. Whatever comes in is text, whatever goes out is safe to show."""

import html
import re
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from delora_sd.studio.jobs.job import show_commands


def esc(text: object) -> str:
    """Returns the text as text: no markup, also within quotes."""
    return html.escape(str(text), quote=True)


def notice(kind: str, text: str) -> str:
    """Returns what the page answers: good, bad or note; "" says nothing."""
    if not text:
        return ""
    role = "alert" if kind == "bad" else "status"
    return f'<p class="st-notice {esc(kind)}" role="{role}">{esc(text)}</p>'


def pill(kind: str, text: str) -> str:
    return f'<span class="st-pill {esc(kind)}">{esc(text)}</span>'


def button(label: str, do: str, *, name: str = "", kind: str = "", ask: str = "", title: str = "") -> str:
    """Returns a button of a panel; pressing it tells the room (do, name). `ask`: to be confirmed first."""
    more = f' data-ask="{esc(ask)}"' if ask else ""
    more += f' title="{esc(title)}" aria-label="{esc(title)}"' if title else ""
    return (
        f'<button type="button" class="st-button {esc(kind)}" data-do="{esc(do)}" data-name="{esc(name)}"{more}>'
        f"{esc(label)}</button>"
    )


def command_box(commands: Iterable[Iterable[str]], *, title: str = "What the button runs") -> str:
    """Returns the commands as one types them, folded away, with a button that copies them."""
    text = show_commands(tuple(tuple(words) for words in commands))
    if not text:
        return ""
    return (
        f'<details class="st-command"><summary>{esc(title)}</summary>'
        f'<div><pre tabindex="0"><code>{esc(text)}</code></pre>'
        '<button type="button" class="st-button quiet" data-copy>Copy</button></div></details>'
    )


def empty(title: str, text: str) -> str:
    """Returns what stands where nothing is yet, and what to do about it."""
    return f'<div class="st-empty"><strong>{esc(title)}</strong><p>{esc(text)}</p></div>'


def photo_url(subject: str, photo: Path, *, size_px: int, with_mask: bool) -> str:
    """Returns where the page finds a photo as training sees it; another one as soon as the file changes."""
    version = photo.stat().st_mtime_ns // 1_000_000 if photo.exists() else 0
    return f"/studio/photo/{quote(subject)}/{quote(photo.name)}?px={size_px}&mask={int(with_mask)}&v={version}"


def run_url(runs: Path, file: Path, *, download: bool = False) -> str:
    """Returns where the page finds a file of a run."""
    version = file.stat().st_mtime_ns // 1_000_000 if file.exists() else 0
    return f"/studio/{'file' if download else 'image'}/{quote(file.relative_to(runs).as_posix())}?v={version}"


def duration(seconds: float) -> str:
    """Returns "40 s", "12 min", "3.5 h"."""
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def size_of_bytes(size: float) -> str:
    for limit, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= limit:
            return f"{size / limit:.1f} {unit}"
    return f"{size:.0f} B"


def plural(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def markdown_card(text: str) -> str:
    """Returns a model card for reading: its metadata apart, headings and the rest as text."""
    match = re.match(r"---\n(.*?)\n---\n(.*)", text, re.DOTALL)
    head, body = (match[1], match[2]) if match else ("", text)
    return (
        f'<details><summary>Metadata</summary><pre tabindex="0">{esc(head)}</pre></details>'
        f'<pre class="st-card-text" tabindex="0">{esc(body.strip())}</pre>'
    )
