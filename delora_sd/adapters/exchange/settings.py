"""Settings of `delora-sd average`. No torch: `--help` answers at once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class AverageConfig:
    """Average the kept checkpoints of a run into one more adapter, after the training."""

    run: str = ""
    """A run folder with at least two checkpoints."""
    width: float = 0.1
    """How long the average is: its standard deviation over the length of the training (sigma_rel of Karras et al.
    2024), above 0 to 0.288, the mean of all. 0.1 is mostly the last quarter."""
    until: int | None = None
    """Step of the last checkpoint that counts; none: the last one kept."""
    name: str | None = None
    """Of the folder in averages/; none: by the width, such as post-hoc-0.1."""
