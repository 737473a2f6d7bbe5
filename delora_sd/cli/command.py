"""What one word of the command line is: its settings and the function it calls."""

import json
import math
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
    run_json: Callable[[Any], None] | None = None
    """What --json does: the same work, one JSON document on standard output; none: the flag is refused."""


def to_json(value: Any) -> str:
    """Returns one JSON document for a program; what is no finite number is null, as JSON has no word for it."""
    return json.dumps(_finite(value), indent=2, ensure_ascii=False, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
