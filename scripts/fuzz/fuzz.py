#!/usr/bin/env python
"""Feeds broken settings, adapter files and run folders to the readers, for a bounded time.

    python scripts/fuzz/fuzz.py --seconds 300 --record fuzz.json       # some hundred cases per second, on one core
    python scripts/fuzz/fuzz.py --case adapters:1234 --seed 0          # one case again, with its traceback

A case may be accepted, or refused by one line (UserError). Anything else is a finding: another exception, more than
five seconds, a gibibyte of memory, a file outside the case's folder, a request, an opened pickle. Exit code 1 then.
"""

import argparse
import json
import random
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fuzz_targets import TARGETS, Case, Target
from fuzz_watch import Watch

MINIMISING_SECONDS = 10
PROGRESS_EVERY_S = 15


@dataclass
class Tally:
    cases: int = 0
    accepted: int = 0
    refused: int = 0


@dataclass(frozen=True, kw_only=True)
class Finding:
    """A case with which a reader did what no reader may."""

    target: str
    case: int
    problem: str
    words: list[str]
    file: str
    content: str
    """Of the changed file, bytes as Latin-1, in the smallest case that still shows the problem."""


@dataclass
class Fuzzer:
    """Runs cases one after the other, in one folder that is emptied in between."""

    seed: int
    watch: Watch
    tallies: dict[str, Tally] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def run_case(self, target: Target, number: int) -> None:
        case = self.draw(target, number)
        outcome, problem = self.watch.judge(target, case)
        tally = self.tallies.setdefault(target.name, Tally())
        tally.cases += 1
        tally.accepted += outcome == "accepted"
        tally.refused += outcome == "refused"
        if problem and not any(kind(problem) == kind(known.problem) for known in self.findings):
            smallest = self._minimise(target, case, problem)
            finding = Finding(
                target=target.name,
                case=number,
                problem=problem,
                words=list(smallest.words),
                file=smallest.changed,
                content=smallest.files[smallest.changed].decode("latin-1"),
            )
            self.findings.append(finding)
            show(finding, self.seed)

    def draw(self, target: Target, number: int) -> Case:
        """Returns case `number` of a target: it depends on the seed and the number only."""
        return target.draw(random.Random(f"{self.seed}/{target.name}/{number}"))

    def _minimise(self, target: Target, case: Case, problem: str) -> Case:
        """Returns a smaller case with the same problem: words and pieces of files go, as long as time allows."""
        deadline = time.monotonic() + MINIMISING_SECONDS
        while time.monotonic() < deadline:
            for smaller in case.smaller():
                if time.monotonic() > deadline or kind(self.watch.judge(target, smaller)[1]) == kind(problem):
                    break
            else:
                return case
            if time.monotonic() < deadline:
                case = smaller
        return case


def kind(problem: str) -> str:
    """Returns what makes two problems the same: the exception and the place in our code."""
    return problem.partition(":")[0]


def show(finding: Finding, seed: int) -> None:
    command = f"python scripts/fuzz/fuzz.py --seed {seed} --case {finding.target}:{finding.case}"
    print(f"\nFINDING {finding.problem}\n  again: {command}", flush=True)
    print(f"  {finding.file}: {finding.content[:400]!r}{'...' if len(finding.content) > 400 else ''}")
    print(f"  words: {finding.words}")


def fuzz(targets: list[Target], *, seed: int, seconds: float, watch: Watch) -> Fuzzer:
    """Gives each target its share of the time and returns what came out."""
    fuzzer = Fuzzer(seed=seed, watch=watch)
    for target in targets:
        end, last = time.monotonic() + seconds / len(targets), time.monotonic()
        number = 0
        while time.monotonic() < end:
            fuzzer.run_case(target, number)
            number += 1
            if time.monotonic() - last > PROGRESS_EVERY_S:
                last = time.monotonic()
                print(f"{target.name}: {number} cases, {end - last:.0f} s left", file=sys.stderr, flush=True)
    return fuzzer


def record_of(fuzzer: Fuzzer, seconds: float) -> dict:
    targets = {name: asdict(tally) for name, tally in fuzzer.tallies.items()}
    findings = [asdict(finding) for finding in fuzzer.findings]
    return {"seed": fuzzer.seed, "seconds": seconds, "targets": targets, "findings": findings}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0, help="for all targets together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--record", type=Path, help="JSON file for the counts and findings")
    parser.add_argument("--case", help="TARGET:NUMBER: this one only, with its traceback")
    given = parser.parse_args(arguments)
    warnings.simplefilter("ignore")
    with tempfile.TemporaryDirectory(prefix="delora-fuzz-") as folder:
        watch = Watch(Path(folder))
        if given.case:
            return _repeat(given.case, given.seed, watch)
        fuzzer = fuzz(list(TARGETS.values()), seed=given.seed, seconds=given.seconds, watch=watch)
    record = record_of(fuzzer, given.seconds)
    if given.record:
        given.record.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    for name, tally in fuzzer.tallies.items():
        print(f"{name}: {tally.cases} cases, {tally.accepted} accepted, {tally.refused} refused")
    print(f"{len(fuzzer.findings)} findings")
    return 1 if fuzzer.findings else 0


def _repeat(name: str, seed: int, watch: Watch) -> int:
    target, _, number = name.partition(":")
    case = Fuzzer(seed=seed, watch=watch).draw(TARGETS[target], int(number))
    print(f"{case.changed}: {case.files[case.changed][:4000]!r}")
    print(f"words: {case.words}")
    outcome, problem = watch.judge(TARGETS[target], case)
    print(outcome, problem or watch.message)
    if watch.error is not None:
        traceback.print_exception(watch.error)
    return 1 if problem else 0


if __name__ == "__main__":
    sys.exit(main())
