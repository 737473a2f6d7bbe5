"""What the paper printed, by table and figure: paper.yaml, read once."""

from functools import cache
from pathlib import Path
from typing import Any

from delora_sd.config.load import read_yaml


def paper_rows(name: str | None) -> dict[str, Any]:
    """Returns {title, note, rows} of one table or figure of the paper; {} for none."""
    return _paper()[name] if name else {}


def paper_names() -> tuple[str, ...]:
    return tuple(_paper())


@cache
def _paper() -> dict[str, Any]:
    return read_yaml(Path(__file__).with_name("paper.yaml"))
