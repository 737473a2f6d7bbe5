"""Settings of `delora-sd studio`."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class StudioConfig:
    """A page for people with photos: train, choose, create, take away."""

    folder: str = "studio"
    """Where photos, runs and jobs are kept; the page reads nothing outside it."""
    port: int = 7860
    """Of the page, on this machine only (127.0.0.1); one that is taken leads to the next that is free."""
    share: bool = False
    """Ask gradio's servers for a public link. Whoever has it can read, train and delete in `folder`, as you can."""
    browser: bool = False
    """Open the page in the default browser."""
