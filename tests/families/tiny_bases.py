"""A tiny random base of each family with real classes, by the family's name; Stable Diffusion's is a fixture of all."""

from collections.abc import Callable
from pathlib import Path

from make_tiny_sdxl import write_tiny_sdxl

WRITERS: dict[str, Callable[[Path], Path]] = {"sdxl": write_tiny_sdxl}
