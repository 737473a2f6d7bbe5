#!/usr/bin/env python
"""The parts of `gpu.sh` as one Markdown sheet; with --architectures the random-weight bases there are.

python scripts/bench/gpu_sheet.py gpu_sheet > docs/GPU.md
"""

import argparse
import sys
from datetime import date
from pathlib import Path

ARCHITECTURES = Path(__file__).resolve().parents[2] / "delora_sd" / "diffusion" / "families" / "architectures"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--architectures", action="store_true")
    parser.add_argument("--small", action="store_true", help="with --architectures: the bundled miniatures instead")
    arguments = parser.parse_args()
    if arguments.architectures:
        print("\n".join(["miniature"] if arguments.small else architectures()))
        return
    if arguments.folder is None or not arguments.folder.is_dir():
        sys.exit("give the folder that gpu.sh wrote")
    print(render_sheet(arguments.folder))


def architectures() -> list[str]:
    """Returns the names of the bases that are built from their configurations with random weights."""
    return sorted(file.stem for file in ARCHITECTURES.glob("*.yaml"))


def render_sheet(folder: Path) -> str:
    """Returns the sheet: a section per part with its command, its time and what it printed, failed parts marked."""
    parts = sorted(file.stem for file in folder.glob("*.title"))
    lines = [f"# Speed sheet, {date.today().isoformat()}", ""]
    for name in parts:
        title, command = (_read(folder / f"{name}.{kind}") for kind in ("title", "command"))
        seconds, status = (_read(folder / f"{name}.cost") or "– not run").split(maxsplit=1)
        lines += [f"## {title}", "", f"`{command}`, {seconds} s", ""]
        if status != "0":
            reason = "time was up" if status == "124" else (_read(folder / f"{name}.err").splitlines() or [status])[-1]
            lines += [f"**Failed ({status}):** {reason[:300]}", ""]
        if text := _read(folder / f"{name}.txt"):
            lines += _shown(text)
    return "\n".join(lines)


def _shown(text: str) -> list[str]:
    """Markdown tables as they are, everything else as printed."""
    is_table = any(line.startswith("| ---") for line in text.splitlines())
    return [text, ""] if is_table else ["```", text, "```", ""]


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8", errors="replace").strip() if file.exists() else ""


if __name__ == "__main__":
    main()
