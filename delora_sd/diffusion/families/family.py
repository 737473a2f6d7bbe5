"""What a family of bases says of itself, and what a base is. No family is named here, and none anywhere else.

Adding one: docs/ADDING_A_BASE.md.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from delora_sd.settings import TrainingConfig

Configs = Mapping[str, dict[str, Any]]
"""{part: its config file}; `model_index` is the folder's own."""

Condition = dict[str, Tensor]
"""What the denoiser knows of one prompt: tensors without a batch axis, of the same shapes for every prompt of a base
(ragged text is padded, with its length beside it)."""

Conditions = dict[str, Tensor]
"""Of a batch: every tensor of its conditions stacked along a new first axis, and `sizes`."""

SIZES = "sizes"
"""(batch, 6): original height and width, top and left of the crop, its height and width, in pixels, of each image."""

Shapes = Mapping[str, tuple[int, ...]]
"""{dotted name of a layer: shape of its weight}."""


@runtime_checkable
class Objective(Protocol):
    """What is trained: times are the family's own, whole timesteps or sigmas, one per sample."""

    def draw_times(self, num: int, generator: torch.Generator) -> Tensor: ...
    def noisy(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor: ...
    def target(self, latents: Tensor, noise: Tensor, times: Tensor) -> Tensor: ...
    def weights(self, times: Tensor) -> Tensor | None:
        """Of each sample's loss; None: all 1."""


@runtime_checkable
class Solver(Protocol):
    """From noise to latents, a step at a time."""

    times: Sequence[Tensor] | Tensor
    """What `Family.predict` takes at each step, in order."""

    def step(self, prediction: Tensor, position: int, latents: Tensor) -> Tensor: ...


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What a family reads from the configs of one base."""

    own_px: int
    """Side it was trained at."""
    smallest_px: int
    """Side of the smallest image that survives every halving."""
    latent_channels: int
    """Of the latents that noise is added to."""
    latent_factor: int
    """Pixels per place of those latents, on one side."""
    num_text_tokens: int
    """Longest prompt that is read, marks included."""
    schedule: Any
    """The noise it was trained under; says its `prediction_type`."""
    version: str = ""
    """Member of the family, where files that other tools read tell them apart."""
    is_distilled: bool = False
    """Made to draw in few steps: no base to train on."""
    advised_px: int | None = None
    """Below it the images are known to be poor, and the user is told."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What the header of a single-file checkpoint says."""

    shapes: Shapes
    metadata: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Recognised:
    """Which member of the family a single file is."""

    architecture: str
    """Whose configs it has."""
    changes: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """{part: what its config says otherwise}"""


@dataclass(frozen=True, kw_only=True)
class SingleFiles:
    """How the family's single-file checkpoints become a folder."""

    recognise: Callable[[str, Checkpoint], Recognised | None]
    """None: not of this family. Raises UserError, which the text begins, for members that cannot be used."""
    index: Mapping[str, list[Any]]
    """{part: [library, class]} of a pipeline."""
    write_tokenizer: Callable[[Path], None]
    """Into a folder that bears the tokenizer's name."""


@dataclass(frozen=True, kw_only=True)
class ExportNames:
    """How files for other tools spell the family's layers, and name its base."""

    claims_layers: Callable[[Shapes], bool]
    """True when an adapter of these layers belongs to the family: an adapter's folder need not say its base."""
    kohya_key: Callable[[str], str]
    """A layer's name in a kohya file, without its ending."""
    flows: bool = False
    """True: `modelspec.prediction_type` is left out, which knows epsilon and v."""
    kohya_part: Callable[[str], tuple[int, int]] = lambda layer: (0, 1)
    """(which, of how many) of the equal parts by rows a layer is of what has its name there: others fuse q, k and v."""
    modelspec: Callable[[Shapes, bool], str]
    """`modelspec.architecture` of (layers, is it v-prediction), without "/lora"."""
    kohya_version: Callable[[Shapes, bool], str]
    """`ss_base_model_version` of the same."""


@dataclass(frozen=True, kw_only=True)
class Family:
    """Bases that load, think and draw alike: the functions and names that every stage asks for."""

    name: str
    title: str
    """As errors say it."""
    denoiser: str
    """Folder of the part that is adapted, and prefix of its keys in diffusers' files."""
    weight_files: Mapping[str, str]
    """{part: stem of its weight file}, in the order they are looked for."""
    classes: Mapping[str, str]
    """{part: its class in diffusers}"""
    tokenizers: tuple[str, ...]
    pipeline: str
    """diffusers' class that draws with it."""
    architectures: tuple[str, ...] = ()
    """Bases of its real sizes with random weights: `architectures/NAME.yaml`."""
    released: Mapping[str, str] = field(default_factory=dict)
    """{hub id: its architecture}: what a base takes is known before it is downloaded."""
    default_layers: tuple[str, ...]
    """Endings of the layers that are adapted where nothing else is asked."""

    claims: Callable[[Configs], bool]
    """True for the configs of a base of the family: `model_index` and the denoiser's."""
    refuse: Callable[[str, Configs], None]
    """Raises UserError for members that cannot be used; by the same configs, before other parts are looked for."""
    read_facts: Callable[[str, Configs], Facts]
    """Reads all configs; raises UserError for what cannot be used. The text starts messages: `model.base=...`."""
    load_denoiser: "Callable[..., nn.Module]"
    """(base, *, device, dtype) -> frozen; on device "meta" only shapes."""
    load_vae: "Callable[..., nn.Module]"
    """The same; in a precision of its own where the asked one overflows."""
    load_text: "Callable[..., Any]"
    """The same: everything that `encode_prompts` needs."""
    encode_prompts: Callable[[Sequence[str], Any], list[Condition]]
    encode_images: Callable[[Tensor, nn.Module], tuple[Tensor, Tensor]]
    """(images in [-1, 1], VAE) -> mean and deviation of their latents, as the denoiser knows them."""
    decode_latents: Callable[[Tensor, nn.Module], Tensor]
    """Back to pixels in [-1, 1]."""
    objective: "Callable[[Base, TrainingConfig, torch.device], Objective]"
    solver: "Callable[..., Solver]"
    """(base, num_steps, *, device); raises UserError for more steps than the base knows."""
    predict: Callable[[nn.Module, Tensor, Tensor, Conditions], Tensor]
    """(denoiser, latents, times, conditions) -> what `Objective.target` is; times are one per sample or one for all."""
    condition_shapes: "Callable[[Base], dict[str, tuple[int, ...]]]"
    """Of one prompt: memory and speed can be measured without text."""
    lora_pipeline: Callable[[nn.Module, nn.Module], Any]
    """(denoiser, VAE) -> a pipeline of diffusers that has no text encoders and loads LoRA files."""
    export: ExportNames
    checkpoint: SingleFiles | None = None
    """None: single files of the family do not hold all of its parts."""
    knows_shapes: bool = True
    """False: trained on squares alone, so that images of other shapes are no good (`data.buckets`)."""
    with_text_layers: Callable[[Configs, tuple[int, ...]], Configs] | None = None
    """The configs with other hidden states of the text encoder as conditioning; None: there is no choice."""
    fused_rows: Callable[[nn.Module], dict[str, tuple[int, ...]]] = lambda denoiser: {}
    """{layer that holds several in one matrix: rows of each}."""


@dataclass(frozen=True, kw_only=True)
class Base:
    """The frozen model an adapter is trained on."""

    name: str
    """As given in `model.base`."""
    folder: Path | None
    """Diffusers folder; none: random weights, built from configs."""
    family: Family = field(repr=False)
    configs: Configs = field(repr=False, hash=False)
    """Of every part."""
    size_px: int
    """Side of training and generated images: `model.size_px`, else what the base was trained at."""
    latent_channels: int
    latent_factor: int
    """Pixels per place of the latents, on one side."""
    smallest_px: int
    """Side of the smallest image, and the step from one side to the next that always works."""
    num_text_tokens: int
    """Longest prompt the text encoder reads, start and end marks included."""
    schedule: Any
    """The noise it was trained under."""
    fingerprint: str
    """SHA-256 over every file that decides what the model computes."""
    has_random_weights: bool
    """Its images mean nothing, and everything made with it says so."""
    version: str
    """Member of its family."""
    is_distilled: bool
    """Made to draw in few steps: no base to train on."""

    @property
    def latent_side(self) -> int:
        """Of the latents of square images."""
        return self.size_px // self.latent_factor

    @property
    def prediction_type(self) -> str:
        """What the denoiser predicts: epsilon, v_prediction or flow."""
        return self.schedule.prediction_type
