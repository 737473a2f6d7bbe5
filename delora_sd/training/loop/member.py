"""One adapter of a pack, from the door to its files, and the cached inputs it is trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jaxtyping import Float
from torch import Tensor

from delora_sd.adapters.attach import Trainable
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.cache import LatentStats
from delora_sd.diffusion.families.family import Condition
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import TrainConfig
from delora_sd.training.loop.ema import Ema


@dataclass(frozen=True, kw_only=True)
class CellData:
    """The cached inputs of one adapter: latent statistics of its images, conditions of their captions."""

    photos: LatentStats
    captions: Sequence[Condition]
    """Of each photo, or the one of all photos."""
    class_images: LatentStats | None
    """None without prior preservation."""
    class_caption: Condition | None
    photo_weights: Float[Tensor, "photos 1 height width"] | None = None
    """Of the loss at each place of each photo; none: 1."""
    photo_inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model is given with each photo besides, (photos, ...) under the names of its arguments."""
    buckets: "tuple[CellData, ...]" = ()
    """With `data.buckets` one for each shape of photos; then the fields above are the first's and nobody's."""


@dataclass(kw_only=True, eq=False)
class Member:
    """One adapter of a pack, from the door to its files: all that training knows of it."""

    position: int
    """In the pack: whose share of the batch is its own."""
    run: RunFolder
    config: TrainConfig
    subject: Subject | None = None
    """Whose photos are trained on; none: it is trained on something else."""
    prompts: tuple[str, ...] = ()
    """What its photos are trained with: one text each, or one for all."""
    masks: tuple[Path, ...] = ()
    """Of the subject's photos, in their order; () when every place of a photo counts alike."""
    inside: Float[Tensor, "photos height width"] | None = None
    """How much of each cell of each photo's latent is the subject; None without masks."""
    data: CellData = field(init=False)
    """What it sees: set before the loop, by preparation."""
    adapter: Trainable = field(init=False)
    """What is trained: set when the method is attached."""
    ema: Ema | None = None
    """Its average, where one is asked for: set when the adapter is at its first step."""
    loss_scale: float = 1.0
    """Above 1 only on an fp16 base; halved whenever its gradients overflow."""
    grad_norm: float = float("nan")
    """At the last step, before clipping; not finite: the step was left out."""
    left: str | None = None
    """Why it left the pack: no later step trains it."""
