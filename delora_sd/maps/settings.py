"""Every setting of the maker's map room, its default and what it decides. No torch here: `--help` answers at once."""

from dataclasses import dataclass, field
from typing import Literal

from delora_sd.settings import AdapterConfig, GenerateConfig, ModelConfig, OptimizerConfig, TrainingConfig

SEG_CONTROLNET = "lllyasviel/control_v11p_sd15_seg"
"""The ControlNet for segmentation maps of Stable Diffusion 1.5."""

Split = Literal["train", "search", "test"]


@dataclass(frozen=True, kw_only=True)
class MapDataConfig:
    dataset: str = "data/ADEChallengeData2016"
    """Folder of SceneParse150 (images/, annotations/), of OFT's ADE20K (train/color, train/segm, prompt_*.json), one of
    your own (train/photos, train/maps, captions.json; docs/MAPS.md), or `miniature` (rendered on the spot)."""
    captions: str | None = None
    """A file of captions (.json, .jsonl, .csv: name, text), or `scenes`: SceneParse150's own scene categories.
    none: the captions that came with the dataset."""
    template: str = "{caption}"
    """The prompt of a map. OFT's ended in a comma: "{caption}, "."""
    geometry: Literal["squash", "crop"] = "squash"
    """How a map and its photo become square: squashed (OFT's pictures), or their largest centred square."""
    search_maps: int = 200
    """Maps set apart from the training split for choosing settings; never trained on, and no test maps."""
    limit: int | None = None
    """Train on so many pairs only, chosen by the hash of their names; none: all."""
    workers: int = 4
    """Threads that read and resize pairs while the autoencoder encodes."""


@dataclass(frozen=True, kw_only=True)
class ControlConfig:
    encoder: Literal["pretrained", "scratch"] = "pretrained"
    """The hint block (8 convolutions): of a ControlNet checkpoint, or new, its last convolution zero."""
    checkpoint: str = SEG_CONTROLNET
    """`control.encoder=pretrained`: a ControlNet in diffusers layout, hub id or local folder."""
    trained: bool = True
    """False: the encoder stays as it is and only the adapter trains."""
    max_lr: float = 1e-4
    """The encoder's learning rate is the adapter's, at most this (ETHER, App. C.2)."""
    alone: bool = False
    """True: no adapter, the encoder alone trains (ETHER's "encoder only" row)."""


@dataclass(frozen=True, kw_only=True)
class MapTrainConfig:
    """Train a control encoder and an adapter on maps and their photos."""

    output_dir: str = ""
    """Run folder. The same command again resumes."""
    seed: int = 0
    """Decides the adapter's and the encoder's start, the order of the maps, noise and timesteps."""
    epochs: int | None = None
    """Passes over the training maps; none: `training.num_steps` counts."""
    targets: Literal["attention", "attention+geglu", "named"] = "attention+geglu"
    """Adapted layers: q, k, v and out of every attention; with the GEGLU projection of the feedforward (OFT); or what
    `adapter.target_modules` names."""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: MapDataConfig = field(default_factory=MapDataConfig)
    control: ControlConfig = field(default_factory=ControlConfig)
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    training: TrainingConfig = field(
        default_factory=lambda: TrainingConfig(batch_size=10, prior_weight=0.0, gradient_checkpointing=True)
    )
    optimizer: OptimizerConfig = field(default_factory=lambda: OptimizerConfig(clip_norm=0.0))


@dataclass(frozen=True, kw_only=True)
class MapGenerateConfig(GenerateConfig):
    """Generate images: of the subject in new contexts, or from semantic maps."""

    maps: str | None = None
    """A folder of semantic maps, for a run that was trained on maps: every prompt is drawn on every map. A subject's
    run goes on top as `extra_adapters`."""
    captions: str | None = None
    """With `maps`: a file with a prompt for each map (.json, .jsonl, .csv), in place of `prompts`."""
    solver: Literal["own", "ddim"] = "own"
    """With `maps`: own, the base's (DPM-Solver++), or ddim, what Table 2 was drawn with (50 steps, guidance 9)."""
    geometry: Literal["squash", "crop"] = "squash"
    """With `maps`: how a map that is not square becomes square."""
