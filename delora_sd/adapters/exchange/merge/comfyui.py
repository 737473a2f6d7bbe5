"""What ComfyUI makes of a kohya file: its arithmetic, written from its source and not from our own reader.

comfy/weight_adapter/lora.py (the sum), comfy/model_patcher.py (where fp32 begins and ends).
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors

_UP, _DOWN, _ALPHA = ".lora_up.weight", ".lora_down.weight", ".alpha"


PartOf = Callable[[str], tuple[int, int]]
"""layer -> (which part it is of the layer that the file names, of how many, one below another)."""


def _whole(layer: str) -> tuple[int, int]:
    return 0, 1


@contextmanager
def patched_by_comfyui(
    model: nn.Module, file: Path, key_of: Callable[[str], str], part_of: PartOf = _whole
) -> Iterator[None]:
    """Inside, the model's weights are those that ComfyUI draws with at strength 1.

    `key_of` returns a layer's name in a kohya file, without its ending: comfy.utils maps it to the layer. Where its
    model has q, k and v in one layer, ours are the rows of that layer's parts.

    Raises:
        UserError: a key that ComfyUI would leave out of this model.
    """
    parameters = dict(model.named_parameters())
    patched = patched_weights(file, {name: value.detach() for name, value in parameters.items()}, key_of, part_of)
    before = {name: parameters[name].data for name in patched}
    try:
        for name, value in patched.items():
            parameters[name].data = value
        yield
    finally:
        for name, value in before.items():
            parameters[name].data = value


@torch.no_grad()
def patched_weights(
    file: Path, weights: Mapping[str, Tensor], key_of: Callable[[str], str], part_of: PartOf = _whole
) -> dict[str, Tensor]:
    """Returns {parameter name: W + alpha / rank * up @ down} of every layer the file names, in W's own type.

    The sum is made in fp32 and rounded once; without an alpha the factors count as they are.
    """
    tensors, _ = read_tensors(file)
    patched, used = {}, set()
    for name, weight in weights.items():
        key = key_of(name.removesuffix(".weight"))
        if key + _UP not in tensors:
            continue
        used |= {key + part for part in (_UP, _DOWN, _ALPHA)}
        up, down = (tensors[key + part].to(weight.device, torch.float32) for part in (_UP, _DOWN))
        scale = tensors[key + _ALPHA].item() / down.shape[0] if key + _ALPHA in tensors else 1.0
        part, num_parts = part_of(name.removesuffix(".weight"))
        patch = (up.flatten(1) @ down.flatten(1)).chunk(num_parts)[part].reshape(weight.shape)
        patched[name] = (weight.float() + scale * patch).to(weight.dtype)
    if left_out := sorted(set(tensors) - used):
        raise UserError(f"{file}: ComfyUI would leave {len(left_out)} keys out, such as {left_out[0]}")
    return patched
