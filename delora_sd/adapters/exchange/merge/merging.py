"""Adapters merged into a UNet's weights for as long as a block lasts; afterwards every bit is what it was."""

import math
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from delora_sd.adapters.exchange.merge.updates import Update, load_updates
from delora_sd.errors import UserError
from delora_sd.quantization import dense_weight, is_quantized
from delora_sd.stopwatch import time_of

MAX_STRENGTH = 2.0

WeightedUpdates = dict[str, list[tuple[float, Update]]]
"""{parameter name: [(strength, update)]}"""


def check_strength(key: str, strength: float) -> None:
    """Raises UserError unless 0 <= strength <= 2."""
    if not (math.isfinite(strength) and 0 <= strength <= MAX_STRENGTH):
        raise UserError(f"{key}: {strength}; a strength is 0 (the base model) to {MAX_STRENGTH:g}, 1 is as trained")


@contextmanager
def merged_adapters(unet: nn.Module, strengths: Mapping[Path, float]) -> Iterator[None]:
    """Inside, every adapted weight is W + sum of strength (W' - W), summed in fp32 and cast once.

    `strengths` maps run folders, adapter folders or plain LoRA files to their strength. The frozen tensors are set
    aside, not copied and not computed back: at exit the UNet is bit-equal to before.

    Raises:
        UserError: a strength outside 0..2, no adapter, or one made for another base.
    """
    with time_of("merging"):
        updates = load_weighted_updates(unet, strengths)
    undo = []
    try:
        with torch.no_grad(), time_of("merging"):
            for name, terms in updates.items():
                undo.append(_merge_parameter(unet, name, terms))
        yield
    finally:
        for restore in reversed(undo):
            restore()


def load_weighted_updates(unet: nn.Module, strengths: Mapping[Path, float]) -> WeightedUpdates:
    """Returns what to add to each parameter; adapters of strength 0 are checked and left out."""
    weighted: WeightedUpdates = {}
    for path, strength in strengths.items():
        check_strength(f"strength of {path}", strength)
        for name, update in load_updates(Path(path), unet).items():
            if strength:
                weighted.setdefault(name, []).append((strength, update))
    return weighted


def merged_weight(weight: Tensor, terms: list[tuple[float, Update]]) -> Tensor:
    """Returns W + sum of strength (W' - W) in fp32."""
    weight = weight.float()
    total = weight.clone()
    for strength, update in terms:
        total.add_(update(weight), alpha=strength)
    return total


def _merge_parameter(unet: nn.Module, name: str, terms: list[tuple[float, Update]]):
    """Merges one parameter and returns the function that puts the old one back."""
    layer_name, _, attribute = name.rpartition(".")
    layer = unet.get_submodule(layer_name)
    if attribute == "weight" and isinstance(layer, nn.Linear) and is_quantized(layer):
        return _merge_quantized(unet, layer_name, layer, terms)
    parameter = getattr(layer, attribute)
    frozen = parameter.data
    parameter.data = merged_weight(frozen, terms).to(frozen.dtype)

    def restore() -> None:
        parameter.data = frozen

    return restore


def _merge_quantized(unet: nn.Module, name: str, layer: nn.Linear, terms: list[tuple[float, Update]]):
    """A merged weight would be rounded to 4 or 8 bits again: a dense layer takes the quantised one's place."""
    weight = dense_weight(layer)
    dense = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    dense.weight = nn.Parameter(merged_weight(weight, terms).to(weight.dtype), requires_grad=False)
    dense.bias = layer.bias
    warnings.warn(
        f"merging into a quantised base: the frozen weights keep their rounding, adapted layers ({name}, ...) become "
        f"dense {weight.dtype} while merged",
        stacklevel=2,
    )
    parent, _, child = name.rpartition(".")
    setattr(unet.get_submodule(parent), child, dense)

    def restore() -> None:
        setattr(unet.get_submodule(parent), child, layer)

    return restore
