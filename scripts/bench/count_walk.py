#!/usr/bin/env python
"""How far it is from the door to the first optimizer step: our functions, their lines, files and changes of file.

    python scripts/bench/count_walk.py [model.base=miniature data.dataset=miniature data.subject=dog ...]

A real training is traced until the optimizer's first step. Counted is every function of `delora_sd` that ran, whole,
in the order of a reader who reads on inside a file before following calls out of it. Left out is what such a reader
does not open:

- config/, files/ and the ground (settings, errors, signals, progress, random streams): words, not steps of the story;
- what only refuses or remarks, and what it alone calls: `check_config(config)` says all that the story needs. These are
  the functions named check, refuse, warn, explain or why.

A second line counts them too.
"""

import ast
import re
import sys
import tempfile
import threading
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from delora_sd.cli.main import main

ROOT = Path(__file__).resolve().parents[2] / "delora_sd"
GROUND = ("config", "files", "errors.py", "signals.py", "progress.py", "random_streams.py")
DEFAULTS = ("model.base=miniature", "data.dataset=miniature", "data.subject=dog", "training.prior_weight=0")

REFUSALS = re.compile(r"_*(check|refuse|warn|explain|why)(_|$)")
"""Names of functions that change nothing and return nothing the story needs."""

Function = tuple[str, int]
"""File and first line."""


class FirstStep(BaseException):
    """Raised where the optimizer would step."""


def trace(arguments: list[str]) -> dict[Function | None, dict[Function, None]]:
    """Returns {caller: the functions it called, in order}; None is the door."""
    calls: dict[Function | None, dict[Function, None]] = {}

    def profile(frame: FrameType, event: str, _: Any) -> None:
        if event == "call" and _is_ours(frame):
            caller = frame.f_back
            while caller is not None and not _is_ours(caller):
                caller = caller.f_back
            calls.setdefault(_name(caller) if caller else None, {}).setdefault(_name(frame))

    torch.optim.AdamW.step = _stop
    threading.setprofile(profile)
    sys.setprofile(profile)
    try:
        main(["train", *arguments])
    except FirstStep:
        return calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    raise SystemExit("the training ended before its first step")


def reading_order(
    calls: dict[Function | None, dict[Function, None]], is_opened: Callable[[Function], bool]
) -> list[Function]:
    """Returns the functions as they are read: all that is needed of a file, then what it calls elsewhere."""
    calls = {caller: dict.fromkeys(filter(is_opened, called)) for caller, called in calls.items()}
    order: dict[Function, None] = {}

    def read(function: Function) -> None:
        elsewhere: list[Function] = []
        _read_on(function, calls, order, elsewhere)
        for other in elsewhere:
            read(other)

    for start in calls[None]:
        read(start)
    return [function for function in order if num_lines(function)]


def num_lines(function: Function) -> int:
    """Returns the length of a function; 0 on the ground and for a comprehension or lambda, part of another."""
    file, line = function
    return 0 if Path(file).relative_to(ROOT).parts[0] in GROUND else _functions(file).get(line, ("", 0))[1]


def is_part_of_the_story(function: Function) -> bool:
    """False for what only refuses or remarks."""
    file, line = function
    return not REFUSALS.match(_functions(file).get(line, ("", 0))[0])


def _read_on(function: Function, calls: dict, order: dict[Function, None], elsewhere: list[Function]) -> None:
    if function in order:
        return
    order[function] = None
    for callee in calls.get(function, {}):
        if callee[0] == function[0]:
            _read_on(callee, calls, order, elsewhere)
        else:
            elsewhere.append(callee)


@cache
def _functions(file: str) -> dict[int, tuple[str, int]]:
    """Returns {first line: (name, lines)}."""
    functions = [node for node in ast.walk(ast.parse(Path(file).read_text())) if isinstance(node, ast.FunctionDef)]
    starts = {min([node.lineno, *(each.lineno for each in node.decorator_list)]): node for node in functions}
    return {start: (node.name, node.end_lineno - start + 1) for start, node in starts.items()}


def _is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(f"{ROOT}/")


def _name(frame: FrameType) -> Function:
    return frame.f_code.co_filename, frame.f_code.co_firstlineno


def _stop(*_: Any, **__: Any) -> None:
    raise FirstStep


def describe(read: list[Function]) -> str:
    """Returns `200 functions, 2,013 lines in 39 files, 80 changes of file`."""
    changes = sum(one[0] != other[0] for one, other in pairwise(read))
    lines, files = sum(map(num_lines, read)), len({file for file, _ in read})
    return f"{len(read)} functions, {lines:,} lines in {files} files, {changes} changes of file"


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        calls = trace([*DEFAULTS, f"output_dir={folder}/run", *sys.argv[1:]])
    print(f"what a reader opens: {describe(reading_order(calls, is_part_of_the_story))}")
    print(f"with every refusal:  {describe(reading_order(calls, lambda function: True))}")
