"""Which runs can train together: one base, one method, one shape of everything; subject, seed and rates are free."""

from delora_sd.config.load import flatten
from delora_sd.settings import TrainConfig

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
    "optimizer.weight_decay",
    "optimizer.betas",
    "optimizer.eps",
    "optimizer.clip_norm",
    "optimizer.schedule",
    "optimizer.warmup_steps",
    "training.prior_weight",
    "training.num_class_images",
)
"""Settings that may differ between the adapters of one pack; a name ending in a dot means the whole section."""


def differing_field(first: TrainConfig, second: TrainConfig) -> str | None:
    """Returns the first setting that keeps two runs from sharing a pack, None when nothing does."""
    ours, theirs = flatten(first), flatten(second)
    for key, value in ours.items():
        if value != theirs[key] and not _is_free(key):
            return key
    has_prior = [config.training.prior_weight > 0 for config in (first, second)]
    return "training.prior_weight" if has_prior[0] != has_prior[1] else None


def _is_free(key: str) -> bool:
    return any(key.startswith(free) if free.endswith(".") else key == free for free in FREE_WITHIN_A_PACK)
