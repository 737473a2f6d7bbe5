"""The miniature's segmenter, `mini-seg`: a small U-Net that says which label of the world every pixel shows.

It knows this world only; its scores are no SegFormer or UperNet scores.
"""

from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from safetensors.torch import load_file
from torch import Tensor, nn

from delora_sd.files.run_folder import read_json
from delora_sd.miniature.world.things.labels import LABELS

SEGMENTER_CONFIG: dict[str, Any] = {"name": "mini-seg", "widths": [24, 48, 96, 112], "labels": list(LABELS)}
"""Widths at 32, 16, 8 and 4 px; label k of a map is labels[k - 1]."""

GROUPS = 8
_PIXELS = 2
"""The network looks at blocks of 2 x 2 pixels and answers for each pixel of a block."""


class MiniSegmenter(nn.Module):
    """Pictures in [-1, 1] to logits of every label but 0; strides halve the side four times, skips bring it back."""

    def __init__(self, widths: list[int], num_labels: int):
        super().__init__()
        self.conv_in = nn.Conv2d(3, widths[0], 4, stride=_PIXELS, padding=1)
        self.down = nn.ModuleList([_Residual(width, 2) for width in widths])
        pairs = list(pairwise(widths))
        self.narrow = nn.ModuleList([nn.Conv2d(fine, coarse, 3, stride=2, padding=1) for fine, coarse in pairs])
        self.widen = nn.ModuleList([nn.Conv2d(coarse, fine, 1) for fine, coarse in pairs])
        self.up = nn.ModuleList([_Residual(fine, 1) for fine, _ in pairs])
        self.conv_out = nn.Conv2d(widths[0], num_labels * _PIXELS**2, 1)

    def forward(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images labels height width"]:
        features, seen = self.conv_in(images), []
        for level, block in enumerate(self.down):
            features = block(features)
            if level < len(self.narrow):
                seen.append(features)
                features = self.narrow[level](features)
        for level in reversed(range(len(self.narrow))):
            larger = F.interpolate(self.widen[level](features), scale_factor=2.0)
            features = self.up[level](larger + seen[level])
        return F.pixel_shuffle(self.conv_out(F.silu(features)), _PIXELS)


class _Residual(nn.Module):
    def __init__(self, width: int, depth: int):
        super().__init__()
        self.norms = nn.ModuleList([nn.GroupNorm(GROUPS, width) for _ in range(depth)])
        self.convs = nn.ModuleList([nn.Conv2d(width, width, 3, padding=1) for _ in range(depth)])

    def forward(self, features: Tensor) -> Tensor:
        inner = features
        for norm, conv in zip(self.norms, self.convs, strict=True):
            inner = conv(F.silu(norm(inner)))
        return features + inner


def new_segmenter(config: dict[str, Any]) -> MiniSegmenter:
    """An untrained segmenter."""
    return MiniSegmenter(config["widths"], len(config["labels"]))


def load_segmenter(folder: Path) -> MiniSegmenter:
    """The trained segmenter in fp32, in evaluation mode."""
    model = new_segmenter(read_json(folder / "config.json"))
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval().requires_grad_(False)


@torch.no_grad()
def find_labels(model: MiniSegmenter, pixels: Tensor) -> Tensor:
    """Labels (images, height, width) uint8, 1 and above, of uint8 pictures (images, height, width, 3)."""
    images = pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1).contiguous()
    return (model(images).argmax(1) + 1).to(torch.uint8)
