"""Between gradio's events and plain functions: errors become answers on the page, a panel's buttons become words."""

import functools
import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from delora_sd.errors import UserError, is_disk_error
from delora_sd.studio.page.html.pieces import notice

PANEL_JS = Path(__file__).with_name("panel.js").read_text(encoding="utf-8")


@dataclass(frozen=True, kw_only=True)
class Room:
    """How a room is kept as the folder has it."""

    enter: Callable[..., Any]
    """When it is entered: everything, also what can be chosen."""
    enter_inputs: list[Any]
    enter_outputs: list[Any]
    watch: Callable[..., Any]
    """While it is open: what other processes write. Never a field that somebody may be typing into."""
    watch_inputs: list[Any]
    watch_outputs: list[Any]


def answering(work: Callable[..., Any], *, num_outputs: int) -> Callable[..., list[Any]]:
    """Returns the handler of an event whose first output is the room's notice.

    `work` returns (text, *outputs), the text "" or (kind, text); what the user can fix is said, and changes nothing
    else on the page.
    """

    @functools.wraps(work)
    def run(*inputs: Any) -> list[Any]:
        import gradio as gr

        try:
            said, *outputs = work(*inputs)
        except UserError as error:
            return [notice("bad", str(error))] + [gr.skip()] * num_outputs
        except OSError as error:
            if not is_disk_error(error):
                raise
            return [notice("bad", f"{error.filename or 'disk'}: {error.strerror}")] + [gr.skip()] * num_outputs
        kind, text = ("good", said) if isinstance(said, str) else said
        return [notice(kind, text), *outputs]

    return run


def pressing(work: Callable[..., Any], *, num_outputs: int) -> Callable[..., list[Any]]:
    """Returns the handler of a panel's buttons and fields: `work` receives (do, name, text) before the inputs."""
    import gradio as gr

    answer = answering(work, num_outputs=num_outputs)

    def run(event: Any, *inputs: Any) -> list[Any]:
        told = event._data if isinstance(event._data, dict) else {}
        words = [str(told.get(key, ""))[:2000] for key in ("do", "name", "text")]
        return answer(*words, *inputs)

    run.__annotations__["event"] = gr.EventData
    return run


def looking(work: Callable[..., Any], *, num_outputs: int) -> Callable[..., Any]:
    """Returns the handler of what only looks: a refresh, a plan while the form is filled in. What cannot be shown is
    said in place of the first output."""

    @functools.wraps(work)
    def run(*inputs: Any) -> Any:
        import gradio as gr

        try:
            return work(*inputs)
        except UserError as error:
            shown = notice("note", str(error))
        except Exception:
            logging.getLogger(__name__).exception("the page could not be refreshed")
            shown = gr.skip()
        return shown if num_outputs == 1 else [shown] + [gr.skip()] * (num_outputs - 1)

    return run


def make_panel(**settings: Any) -> Any:
    """Returns a gradio HTML component whose buttons trigger `click` with what they say."""
    import gradio as gr

    return gr.HTML(js_on_load=PANEL_JS, apply_default_css=False, padding=False, **settings)


def make_choice(**settings: Any) -> Any:
    """Returns a dropdown of names from the folder. What it sends is checked where it is used, against the folder as it
    is then: gradio would check it against what the page was told some seconds ago."""
    import gradio as gr

    return gr.Dropdown(**{"choices": [], "allow_custom_value": True, "interactive": True} | settings)


def choices(names: list[str], current: str | None) -> Any:
    """Returns the update of a dropdown: what is there now, keeping what was chosen while it is there."""
    import gradio as gr

    return gr.update(choices=names, value=current if current in names else (names[0] if names else None))
