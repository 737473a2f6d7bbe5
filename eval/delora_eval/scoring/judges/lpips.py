"""LPIPS (Zhang et al. 2018) with AlexNet, as an option: its weights are not ours to ship.

Written out because the lpips package reads pickles. It takes that package's own state, saved once as
`safetensors.torch.save_model(lpips.LPIPS(net="alex"), "lpips.safetensors")`.
"""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from delora_eval.scoring.judges.networks.weights import HASH_DIGITS
from delora_sd.data.photos import open_photo, to_square, to_tensor
from delora_sd.errors import UserError
from delora_sd.files.contents import hash_file
from delora_sd.files.tensors import read_tensors

SIZE_PX = 512
"""Images are compared at this size (oft-db/eval.py)."""

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
"""The published input normalisation, for images in -1..1."""

LAYERS = (("slice1.0", 4, 2, False), ("slice2.3", 1, 2, True), ("slice3.6", 1, 1, True))
LAYERS += (("slice4.8", 1, 1, False), ("slice5.10", 1, 1, False))
"""AlexNet's convolutions: (name in the file, stride, padding, max-pooled before it)."""


def load_lpips(file: Path) -> tuple[dict[str, Tensor], str]:
    """Returns (weights, first digits of the file's sha256). Raises UserError when they are not LPIPS's."""
    weights, _ = read_tensors(file)
    needed = [f"net.{name}.weight" for name, *_ in LAYERS] + [f"lin{i}.model.1.weight" for i in range(len(LAYERS))]
    missing = [name for name in needed if name not in weights]
    if missing:
        raise UserError(f'lpips_weights={file}: no {missing[0]} in it; expected the state of lpips.LPIPS(net="alex")')
    return weights, hash_file(file)[:HASH_DIGITS]


def lpips_distances(
    files: Sequence[Path], prompts: Int[Tensor, " G"], weights: dict[str, Tensor], device: torch.device
) -> Float[Tensor, "G G"]:
    """Returns the LPIPS distances between images of the same prompt; nan between others, which nobody needs."""
    weights = {name: value.float().to(device) for name, value in weights.items()}
    distances = torch.full((len(files), len(files)), float("nan"))
    for prompt in prompts.unique().tolist():
        rows = torch.nonzero(prompts == prompt).flatten()
        images = torch.stack([to_tensor(to_square(open_photo(files[row]), SIZE_PX)) for row in rows])
        distances[rows[:, None], rows] = pairwise_lpips(images.to(device), weights).cpu()
    return distances


def pairwise_lpips(images: Float[Tensor, "N 3 H W"], weights: dict[str, Tensor]) -> Float[Tensor, "N N"]:
    """Returns LPIPS of every two images in -1..1: per layer the weighted squared difference of unit features."""
    total = images.new_zeros(len(images), len(images))
    with torch.inference_mode():
        for index, features in enumerate(_features(images, weights)):
            unit = features / (features.norm(dim=1, keepdim=True) + 1e-10)
            linear = weights[f"lin{index}.model.1.weight"][0]  # (channels, 1, 1)
            for row, image in enumerate(unit):
                total[row] += (linear * (unit - image) ** 2).sum(dim=1).mean(dim=(1, 2))
    return total


def _features(images: Tensor, weights: dict[str, Tensor]) -> list[Tensor]:
    """Returns AlexNet's five activations after ReLU."""
    shift, scale = (images.new_tensor(values)[:, None, None] for values in (SHIFT, SCALE))
    value, features = (images - shift) / scale, []
    for name, stride, padding, is_pooled in LAYERS:
        value = F.max_pool2d(value, 3, stride=2) if is_pooled else value
        value = F.conv2d(value, weights[f"net.{name}.weight"], weights[f"net.{name}.bias"], stride, padding).relu()
        features.append(value)
    return features
