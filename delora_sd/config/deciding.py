"""Which settings decide what a training produces, and what a run means by those its version did not know yet."""

from pathlib import Path
from typing import Any

from delora_sd.config.load import flatten, load_config
from delora_sd.config.overlay import with_settings
from delora_sd.settings import TrainConfig

DECIDES_NOTHING = (
    "output_dir",
    "model.offline",
    "training.checkpoint_every",
    "training.keep_checkpoints",
    "training.log_every",
    "training.tracker",
    "preview.",
)
"""Settings that may change between two calls of one training; a name ending in a dot means the whole section."""

FIRST_DEFAULTS: dict[str, Any] = {}
"""{setting: what a run means that does not say}, where that is not the default of settings.py.

Two rules keep old run folders, and the names of old cells, what they were:
- whoever changes a default puts the value before here, once and for good;
- whoever adds a setting whose default is not what was done without it puts here what was done.
"""


def read_run_settings(file: Path) -> TrainConfig:
    """Returns the settings in a run's config.yaml; what its version did not know yet means what was done then.

    Raises:
        UserError: unknown key (names the nearest), wrong type, unreadable file.
    """
    start = with_settings(TrainConfig(), FIRST_DEFAULTS, source="the first defaults")
    return load_config(TrainConfig, [file], [], start=start)


def differing_settings(config: TrainConfig) -> dict[str, Any]:
    """Returns the deciding settings that differ from their first defaults: what names a training for good."""
    first = flatten(TrainConfig()) | FIRST_DEFAULTS
    return {key: value for key, value in flatten(config).items() if is_deciding(key) and value != first[key]}


def is_deciding(key: str) -> bool:
    """True unless the setting may change between two calls of one training."""
    return not any(key.startswith(name) if name.endswith(".") else key == name for name in DECIDES_NOTHING)
