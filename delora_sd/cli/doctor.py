"""`delora-sd doctor`: what this machine can run, what is missing, and what to do about it.

Each installed package brings its own checks (entry points), so the maker never imports the judge.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Literal

from delora_sd.errors import UserError
from delora_sd.settings import DoctorConfig

State = Literal["ok", "absent", "broken"]

_MARKS = {"ok": "[green]ok[/]", "absent": "[yellow]absent[/]", "broken": "[red]broken[/]"}
_PIPE_WIDTH = 160


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the examination."""

    topic: str
    name: str
    state: State
    """absent: something optional is not there. broken: the main job does not run without it."""
    found: str
    advice: str = ""
    """What to do; empty when all is well."""


Check = Callable[[DoctorConfig], list[Finding]]


def examine(config: DoctorConfig) -> None:
    """Prints every finding as it is known to be, and fails when the main job cannot run.

    Raises:
        UserError: something the main job needs is broken.
    """
    findings = find_out(config)
    _print(findings)
    check_able(findings)


def find_out(config: DoctorConfig) -> list[Finding]:
    """Returns what every check finds."""
    return [finding for check in load_checks() for finding in _run_check(check, config)]


def check_able(findings: list[Finding]) -> None:
    """Raises UserError when something the main job needs is broken."""
    broken = [finding.name for finding in findings if finding.state == "broken"]
    if broken:
        raise UserError(f"the main job cannot run here: {', '.join(broken)} (the table says what to do)")


def load_checks() -> list[Check]:
    """Returns the checks of every installed package, the maker's first."""
    entries = sorted(entry_points(group="delora_sd.checks"), key=lambda entry: entry.name != "maker")
    return [check for entry in entries for check in entry.load()]


def _run_check(check: Check, config: DoctorConfig) -> list[Finding]:
    """An examination goes on whatever one check runs into."""
    try:
        return check(config)
    except Exception as error:
        name = check.__name__.removeprefix("check_").replace("_", " ")
        reason = f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"
        return [Finding(topic="doctor", name=name, state="broken", found=reason, advice="run bash scripts/test.sh")]


def _print(findings: list[Finding]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(title="delora-sd doctor", title_justify="left")
    for heading in ("", "what", "state", "found", "what to do"):
        table.add_column(heading, overflow="fold")
    topic = None
    for finding in findings:
        if finding.topic != topic:
            table.add_section()
        cells = [escape(finding.topic) if finding.topic != topic else "", escape(finding.name), _MARKS[finding.state]]
        table.add_row(*cells, escape(finding.found), escape(finding.advice))
        topic = finding.topic
    console = Console()
    (console if console.is_terminal else Console(width=_PIPE_WIDTH)).print(table)
