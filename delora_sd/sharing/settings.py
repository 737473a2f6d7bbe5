"""Settings of `delora-sd card` and `delora-sd push`. No torch: `--help` answers at once."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class CardConfig:
    """Write a run's model card, README.md, as the hub reads it."""

    run: str = ""
    """A run folder whose training is finished."""
    licence: str | None = None
    """The hub's name of the base's licence; none: known for Stable Diffusion 1.5 and the miniature."""
    overwrite: bool = False
    """Replace a README.md that says something else."""


@dataclass(frozen=True, kw_only=True)
class PushConfig:
    """Send a run's card, exports, adapter and a few images to the hub; `--dry-run` lists them."""

    run: str = ""
    """A run folder whose training is finished."""
    name: str = ""
    """owner/name on the hub."""
    private: bool = True
    """Only you see it; false: everybody."""
    update: bool = False
    """Add a commit to a repository that exists."""
    licence: str | None = None
    """For the card, where there is none yet."""
