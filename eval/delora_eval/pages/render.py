"""Templates to one self-contained page: everything is escaped unless it was made by us as Markup."""

import base64
import hashlib
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from delora_sd import __version__

TEMPLATES = Path(__file__).parent / "templates"


def render_page(template: str, *, assets: tuple[str, ...] = ("page",), **values: Any) -> str:
    """Returns the page; style sheets and scripts are inside, and the page's policy forbids every request.

    `assets` names the .css and .js files, in order.
    """
    script = _read_assets(assets, ".js")
    return (
        _environment()
        .get_template(template)
        .render(
            styles=Markup(_read_assets(assets, ".css")),
            script=Markup(script),
            script_hash=_policy_hash(script),
            version=__version__,
            **values,
        )
    )


@cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _read_assets(names: tuple[str, ...], suffix: str) -> str:
    return "\n".join((TEMPLATES / f"{name}{suffix}").read_text(encoding="utf-8") for name in names)


def _policy_hash(script: str) -> str:
    """Only a script with this hash runs: one that slipped in by a prompt would not."""
    return f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}"
