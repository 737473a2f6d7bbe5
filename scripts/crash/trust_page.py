"""Puts the figures of the last scripts/trust.sh into docs/TRUST.md: what was tried, how often, and what went wrong.

python scripts/crash/trust_page.py runs/trust docs/TRUST.md
"""

import json
import os
import platform
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

PACKAGES = ("torch", "diffusers", "transformers", "accelerate", "peft", "safetensors", "pillow")

SUITES = {
    "bad_inputs": ("Bad inputs", "pytest tests/trust/test_bad_inputs.py"),
    "security": ("Security", "pytest tests/trust/test_security.py"),
    "properties": ("Properties of the mathematics (hypothesis)", 'pytest -m "hypothesis and not slow" tests'),
    "determinism": ("Determinism", "pytest tests/trust/test_determinism.py"),
    "exports": ("Exports loaded back by diffusers", "pytest tests/training/record/test_export_check.py"),
}
"""{record: (what it is, the command that repeats it)}"""

BEGIN, END = "<!-- figures: written by scripts/crash/trust_page.py -->", "<!-- end of figures -->"
"""What lies between them in the page is replaced; the rest is written by hand."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of the table of figures."""

    what: str
    count: str
    wrong: int
    seconds: float
    command: str


def crash_rows(records: Path) -> list[Row]:
    """Returns a line per kind of disturbance, over the scenes of every crash*.json."""
    done, findings, seconds, boundaries = Counter(), 0, 0.0, Counter()
    for record in map(read_json, sorted(records.glob("crash*.json"))):
        seconds, findings = seconds + record["seconds"], findings + len(record["findings"])
        for name, scene in record["scenes"].items():
            done.update(scene["done"])
            boundaries[name] = scene["boundaries"]
    if not done:
        return []
    counts = ", ".join(f"{count} {kind}" for kind, count in done.items())
    watched = ", ".join(f"{name} {count}" for name, count in boundaries.items())
    what = f"Commands disturbed and started again (write boundaries: {watched})"
    return [Row(what=what, count=counts, wrong=findings, seconds=seconds, command="python scripts/crash/crash_test.py")]


def fuzz_rows(records: Path) -> list[Row]:
    file = records / "fuzz.json"
    if not file.exists():
        return []
    record = read_json(file)
    cases = {name: target["cases"] for name, target in record["targets"].items()}
    return [
        Row(
            what=f"Random inputs ({', '.join(f'{name} {count:,}' for name, count in cases.items())})",
            count=f"{sum(cases.values()):,} cases",
            wrong=len(record["findings"]),
            seconds=record["seconds"],
            command=f"python scripts/fuzz/fuzz.py --seconds {record['seconds']:g}",
        )
    ]


def suite_rows(records: Path) -> list[Row]:
    return [
        suite_row(records / f"{name}.xml", *words)
        for name, words in SUITES.items()
        if (records / f"{name}.xml").exists()
    ]


def suite_row(file: Path, what: str, command: str) -> Row:
    """Returns the line of one pytest run, from its JUnit record."""
    suite = next(ElementTree.parse(file).getroot().iter("testsuite"))
    total, skipped = int(suite.get("tests", 0)), int(suite.get("skipped", 0))
    wrong = int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    count = f"{total - skipped} tests" + (f" ({skipped} skipped)" if skipped else "")
    return Row(what=what, count=count, wrong=wrong, seconds=float(suite.get("time", 0)), command=command)


def render(rows: list[Row]) -> str:
    """Returns the figures as Markdown."""
    versions = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    lines = [
        f"{describe_machine()}; {versions}; commit {commit()}.",
        "",
        "| tried | how often | went wrong | time | again |",
        "| --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.what} | {row.count} | {row.wrong} | {show_seconds(row.seconds)} | `{row.command}` |" for row in rows
    ]
    return "\n".join(lines)


def put_between(page: str, figures: str) -> str:
    """Returns the page with other figures."""
    before, found_begin, rest = page.partition(BEGIN)
    _, found_end, after = rest.partition(END)
    if not (found_begin and found_end):
        raise SystemExit(f"the page has no place for figures, from {BEGIN} to {END}")
    return f"{before}{BEGIN}\n{figures}\n{END}{after}"


def describe_machine() -> str:
    """Returns the machine in neutral words; names of hosts and models of processors belong to nobody's page."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    plural = "s" if cores != 1 else ""
    return f"{cores} CPU core{plural} ({platform.machine()}), {platform.system()}, Python {platform.python_version()}"


def commit() -> str:
    answer = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False)
    return answer.stdout.strip() or "unknown"


def show_seconds(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 100 else f"{seconds:.0f} s"


def read_json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def main() -> int:
    if len(sys.argv) != 3:
        print(__doc__, file=sys.stderr)
        return 2
    records, page = Path(sys.argv[1]), Path(sys.argv[2])
    rows = [*crash_rows(records), *fuzz_rows(records), *suite_rows(records)]
    if not rows:
        print(f"{records}: no records; run bash scripts/trust.sh", file=sys.stderr)
        return 2
    page.write_text(put_between(page.read_text(encoding="utf-8"), render(rows)), encoding="utf-8")
    print(page)
    return 0


if __name__ == "__main__":
    sys.exit(main())
