"""Quick, balanced, thorough: what each means on each base. A preset is settings, nothing more."""

from typing import Any

from delora_sd.settings import DEFAULT_BASE

BASES = ("miniature", DEFAULT_BASE)
"""Offered by name; a folder, a file or another hub id may be typed."""

METHODS = {
    "delora": "the paper's: its length is bounded, so long trainings stay close to the base",
    "lora": "what most tools train",
    "dora": "LoRA with a learned magnitude",
    "normalized_lora": "DeLoRA without the weight norm",
    "ether_plus": "reflections; few parameters",
    "oft": "rotations; large files",
}
"""{method: what it is}; the others are on the command line (`delora-sd methods`)."""

PRESETS = {
    "quick": "a first look: does it learn the right thing?",
    "balanced": "what we would try first",
    "thorough": "the upper end of what the paper trained",
}

_STEPS = {"quick": 400, "balanced": 1000, "thorough": 1400}
"""Stable Diffusion. The paper finds its best scores between 1000 and 1400 (Sec. 3.4)."""
_MINIATURE_STEPS = {"quick": 200, "balanced": 400, "thorough": 800}
"""The bundled world is small: configs/train/miniature_*.yaml, found by search."""
_MINIATURE_RATES = {"delora": 1.2e-2, "lora": 2e-3, "dora": 4e-3}
_NUM_CHECKPOINTS = 5


def preset_settings(preset: str, *, base: str, method: str) -> dict[str, Any]:
    """Returns {dotted key: value} of the settings that a preset changes on this base."""
    is_miniature = base.startswith("miniature")
    steps = (_MINIATURE_STEPS if is_miniature else _STEPS)[preset]
    every = steps // _NUM_CHECKPOINTS
    settings = {"training.num_steps": steps, "training.checkpoint_every": every, "preview.every": every}
    if is_miniature:
        settings |= {"training.batch_size": 2, "training.prior_weight": 0, "preview.guidance": 3}
        settings |= {"adapter.boundary": 2.5} if method == "delora" else {}
        settings |= {"optimizer.lr": _MINIATURE_RATES[method]} if method in _MINIATURE_RATES else {}
    return settings


def draw_settings(base: str) -> dict[str, Any]:
    """Returns what drawing on this base needs to be told."""
    return {"guidance": 3} if base.startswith("miniature") else {}


def size_of(base: str) -> int:
    """Returns the side that photos are shown at, pixels: what the base trains at, where we know it without loading."""
    return 64 if base.startswith("miniature") else 512
