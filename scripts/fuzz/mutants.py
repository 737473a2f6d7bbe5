#!/usr/bin/env python
"""Breaks one line at a time and runs the tests that should notice: a mutant that survives is a test that cannot see.

    python scripts/fuzz/mutants.py                 # the whole table; minutes on one core
    python scripts/fuzz/mutants.py factors grid    # the mutants of files whose path holds one of these words

Works on a copy; the checkout is not touched. Exit code 1 when a mutant survives, 2 when its line is no longer there.
"""

import argparse
import itertools
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from mutant_table import MUTANTS, Mutant

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("delora_sd", "eval", "tests", "scripts", "configs", "docs", "README.md", "pyproject.toml")
LONGEST_SECONDS = 600
"""A mutant may loop for ever; that counts as caught."""

SURVIVED, CAUGHT = 0, 1
"""pytest's exit codes; any other one says that the tests did not run."""


def main(arguments: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("words", nargs="*", help="only mutants of files whose path holds one of these words")
    words = parser.parse_args(arguments).words
    mutants = [mutant for mutant in MUTANTS if not words or any(word in mutant.file for word in words)]
    if problems := [problem for mutant in mutants if (problem := find_problem(ROOT, mutant))]:
        print("\n".join(problems), file=sys.stderr)
        return 2
    _load_what_all_tests_load()
    with tempfile.TemporaryDirectory() as folder:
        copy = _copy_tree(Path(folder))
        survivors = []
        for tests, theirs in itertools.groupby(sorted(mutants, key=lambda mutant: mutant.tests), lambda m: m.tests):
            if _run_tests(copy, tests, log := copy / "log.txt") != SURVIVED:
                print(log.read_text()[-3000:], "\nthe tests fail on unbroken code; mend that first", file=sys.stderr)
                return 2
            survivors += [mutant for mutant in theirs if not _is_caught(copy, mutant)]
    print(f"{len(mutants) - len(survivors)} of {len(mutants)} mutants caught")
    return 1 if survivors else 0


def find_problem(root: Path, mutant: Mutant) -> str | None:
    """Returns why a mutant cannot be made, None when it can: its text must stand in its file exactly once."""
    file = root / mutant.file
    if not file.exists():
        return f"{mutant.file}: no such file; where did `{mutant.old}` go?"
    count = file.read_text(encoding="utf-8").count(mutant.old)
    if count != 1:
        return (
            f"{mutant.file}: `{mutant.old}` stands there {count} times, not once; update scripts/fuzz/mutant_table.py"
        )
    missing = [test for test in mutant.tests if not (root / test.partition("::")[0]).exists()]
    return f"{mutant.file}: `{mutant.old}`: no test file {missing[0]}" if missing else None


def _load_what_all_tests_load() -> None:
    """Every mutant is a fork of this process, which has spent the seconds that the libraries take to load."""
    os.environ |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    sys.dont_write_bytecode = True  # a mutant as long as its line, within the same second, would be served from a cache
    import accelerate  # noqa: F401
    import diffusers  # noqa: F401
    import open_clip  # noqa: F401
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import timm  # noqa: F401
    import torch
    import transformers  # noqa: F401

    torch.set_num_threads(1)


def _copy_tree(folder: Path) -> Path:
    for name in COPIED:
        source, target = ROOT / name, folder / name
        if source.is_dir():
            shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"))
        else:
            shutil.copyfile(source, target)
    return folder


def _is_caught(copy: Path, mutant: Mutant) -> bool:
    file = copy / mutant.file
    whole = file.read_text(encoding="utf-8")
    file.write_text(whole.replace(mutant.old, mutant.new), encoding="utf-8")
    began = time.monotonic()
    code = _run_tests(copy, mutant.tests, copy / "log.txt")
    file.write_text(whole, encoding="utf-8")
    verdict = {SURVIVED: "SURVIVED", CAUGHT: "caught", -signal.SIGALRM: "caught (endless)"}.get(code)
    if verdict is None:
        verdict = f"DID NOT RUN (exit code {code}): {(copy / 'log.txt').read_text()[-500:]}"
    print(
        f"{verdict:<9} {time.monotonic() - began:5.1f} s  {mutant.file}: `{mutant.old}` -> `{mutant.new}`", flush=True
    )
    return verdict.startswith("caught")


def _run_tests(copy: Path, tests: Sequence[str], log: Path) -> int:
    """Returns pytest's exit code over the copy, from a fork of this process; minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        signal.alarm(LONGEST_SECONDS)
        with log.open("w", encoding="utf-8") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            code = 99
            try:
                code = _pytest_in(copy, tests)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _pytest_in(copy: Path, tests: Sequence[str]) -> int:
    import pytest

    os.chdir(copy)
    sys.path[:0] = [str(copy), str(copy / "eval")]
    os.environ["PYTHONPATH"] = os.pathsep.join(sys.path[:2])  # for tests that start processes
    for package in ("delora_sd", "delora_eval"):
        assert Path(find_spec(package).origin).is_relative_to(copy), f"{package} would be that of the checkout"
    options = ["-x", "-q", "-p", "no:cacheprovider", "--basetemp", str(copy / "tmp")]
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # of plugins that a library loaded before pytest
    return int(pytest.main([*options, *tests]))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
