"""Settings of the commands around a training: `pack` and `estimate`."""

from dataclasses import dataclass, field

from delora_sd.settings import AdapterConfig, ModelConfig, OptimizerConfig, TrainingConfig


@dataclass(frozen=True, kw_only=True)
class PackConfig:
    """Train several runs in one batch, each as if it were alone."""

    runs: tuple[str, ...] = ()
    """Run folders with a config.yaml: begun, stopped, or only planned (`delora-sd train ... --dry-run` prints one)."""


@dataclass(frozen=True, kw_only=True)
class EstimateConfig:
    """Measure what a training takes on this machine: seconds per step and memory, alone and in a pack."""

    output: str | None = None
    """A .json file for the figures; none: they are only printed."""
    model: ModelConfig = field(default_factory=ModelConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
