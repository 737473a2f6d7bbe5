"""What one word of the command line is: its settings and the function it calls."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Command:
    """One command of `delora-sd`; `run` receives the loaded config."""

    summary: str
    config: type
    run: Callable[[Any], None]
    positional: tuple[str, ...] = ()
    """Settings that may be given without `key=`, in order."""
    many: str | None = None
    """Setting that takes every further bare word."""
    example: str
    dry_run: Callable[[Any], None] | None = None
    """What --dry-run does; none: print the resolved settings."""
