"""Which settings decide what a training produces or keep two apart, and what a run of an earlier version means."""

import json
from pathlib import Path
from typing import Any

from delora_sd.config.load import flatten, load_config
from delora_sd.config.overlay import with_settings
from delora_sd.settings import TrainConfig

DECIDES_NOTHING = (
    "output_dir",
    "model.offline",
    "training.checkpoint_every",
    "training.export_check",
    "training.keep_checkpoints",
    "training.log_every",
    "training.tracker",
    "preview.",
)
"""Settings that may change between two calls of one training; a name ending in a dot means the whole section."""

FREE_WITHIN_A_PACK = (
    "output_dir",
    "seed",
    "data.",
    "preview.",
    "adapter.boundary",
    "adapter.boundary_unit",
    "adapter.boundary_pattern",
    "optimizer.lr",
    "optimizer.boundary_lr",
    "optimizer.magnitude_lr",
    "optimizer.weight_decay",
    "optimizer.betas",
    "optimizer.eps",
    "optimizer.clip_norm",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "training.prior_weight",
    "training.outside_weight",
    "training.num_class_images",
    "training.export_check",
    "training.ema.",
)
"""Settings that may differ between the adapters of one pack: one base, one method, one shape of everything."""

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
    return differing_values(flatten(config))


def differing_values(flat: dict[str, Any]) -> dict[str, Any]:
    """Returns the same of some settings, {dotted key: value}: each is looked at by itself."""
    first = flatten(TrainConfig()) | FIRST_DEFAULTS
    return {key: value for key, value in flat.items() if is_deciding(key) and value != first[key]}


def is_deciding(key: str) -> bool:
    """True unless the setting may change between two calls of one training."""
    return not _is_among(key, DECIDES_NOTHING)


def setting_apart(first: TrainConfig, second: TrainConfig) -> str | None:
    """Returns the first setting that keeps two runs from training in one pack, None when nothing does."""
    ours, theirs = flatten(first), flatten(second)
    if first.data.buckets or second.data.buckets:  # shapes come in another order for every subject
        return "data.buckets"
    for key, value in ours.items():
        if value != theirs[key] and not _is_among(key, FREE_WITHIN_A_PACK):
            return key
    has_prior = [config.training.prior_weight > 0 for config in (first, second)]
    return "training.prior_weight" if has_prior[0] != has_prior[1] else None


def pack_group(config: TrainConfig) -> str:
    """Returns a text that is the same of two runs exactly when nothing sets them apart (`setting_apart`)."""
    shared = {key: value for key, value in flatten(config).items() if not _is_among(key, FREE_WITHIN_A_PACK)}
    alone = {"alone": config.output_dir} if config.data.buckets else {}
    return json.dumps(shared | {"has prior": config.training.prior_weight > 0} | alone, sort_keys=True)


def _is_among(key: str, names: tuple[str, ...]) -> bool:
    return any(key.startswith(name) if name.endswith(".") else key == name for name in names)
