"""Writes the table of docs/MEMORY.md and the doctor's needs.json: what training takes on every architecture.

Computed from shapes on device "meta":

    python scripts/bench/memory_table.py                       # all: minutes on a CPU, 2 GB, no weights, no GPU
    python scripts/bench/memory_table.py sdxl-architecture      # one, when a family was added; the others stay
"""

import sys
from pathlib import Path

from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.table import architectures
from delora_sd.settings import ModelConfig
from delora_sd.training.memory.on_shapes import KINDS, Needs, estimate, read_table, usual_training, write_table

FILE = Path(__file__).resolve().parents[2] / "docs" / "MEMORY.md"

COLUMNS = (
    "base",
    "px",
    "weights bf16",
    "int8",
    "int4",
    "text encoders",
    "VAE",
    "a step",
    "a step, checkpointing",
    "**peak bf16**",
    "**peak bf16, checkpointing**",
    "**peak int4, checkpointing**",
)
HEAD = "| " + " | ".join(COLUMNS) + " |\n" + "| --- " * len(COLUMNS) + "|"
BEGIN, END = "<!-- computed -->", "<!-- /computed -->"
"""What lies between them is written anew."""


def main() -> None:
    before, _, rest = FILE.read_text(encoding="utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    asked = sys.argv[1:] or architectures()
    computed = {name: estimate(find_base(ModelConfig(base=name)), usual_training(name)) for name in asked}
    known = read_table() | computed
    needs = {name: known[name] for name in architectures() if name in known}
    write_table(needs)
    rows = "\n".join([HEAD, *(row(name, each) for name, each in needs.items())])
    FILE.write_text(f"{before}{BEGIN}\n\n{rows}\n\n{END}{after}", encoding="utf-8")
    print(rows)


def row(name: str, needs: Needs) -> str:
    """Returns the base's line of the table."""
    numbers = [
        *(needs.weights[kind] for kind in KINDS),
        needs.text,
        needs.vae,
        needs.step,
        needs.checkpointed_step,
        *_peaks(needs),
    ]
    return f"| `{name}` | {needs.size_px} | " + " | ".join(f"{number / 1e9:.2f}" for number in numbers) + " |"


def _peaks(needs: Needs) -> list[int]:
    ways = (("none", False), ("none", True), ("int4", True))
    return [needs.peak(kind, is_checkpointed=is_checkpointed) for kind, is_checkpointed in ways]


if __name__ == "__main__":
    main()
