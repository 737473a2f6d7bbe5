"""Which modules claim shapes."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def shaped_modules() -> list[str]:
    """Returns every module of ours that loads jaxtyping. data/photos.py quotes its shapes: it must not load torch."""
    files = [(top, file) for top in (ROOT, ROOT / "eval") for file in sorted(top.glob("delora_*/**/*.py"))]
    return [
        ".".join(file.relative_to(top).with_suffix("").parts)
        for top, file in files
        if re.search(r"^from jaxtyping import", file.read_text(encoding="utf-8"), re.MULTILINE)
    ]
