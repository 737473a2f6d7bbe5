"""CSAIL's UperNet-101 (Xiao et al. 2018; Zhou et al. 2017): a ResNet-101 with a deep stem, pyramid pooling, and a
feature pyramid. The layers' names are those of its published weights, which scripts/prepare/convert_upernet.py reads.

Its README: 42.00 mIoU and 80.79 pixel accuracy on ADE20K's validation photos, at one scale.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from delora_eval.maps.answers import Size, check_classes, largest
from delora_eval.maps.settings import MapJudgeConfig
from delora_eval.scoring.judges.networks.encoders import pick_device
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors
from delora_sd.maps.palette import Palette

DEPTHS = (3, 4, 23, 3)
POOL_SIDES = (1, 2, 3, 6)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
"""Of ImageNet's RGB in 0..1."""
MULTIPLE = 32
"""Images are padded to it: the backbone halves the side five times."""


class UperNet(nn.Module):
    """`encoder` and `decoder` as CSAIL names them; RGB in, logits of every class at a quarter of the side out."""

    def __init__(self, num_classes: int, *, depths: Sequence[int] = DEPTHS, width: int = 64, pyramid: int = 512):
        super().__init__()
        self.encoder = _Backbone(depths, width)
        self.decoder = _Decoder([width * 4 * 2**level for level in range(4)], pyramid, num_classes)

    def forward(self, images: Float[Tensor, "images 3 height width"]) -> Float[Tensor, "images classes rows columns"]:
        return self.decoder(self.encoder(images))


class _Backbone(nn.Module):
    def __init__(self, depths: Sequence[int], width: int):
        super().__init__()
        for number, (inner, outer, stride) in enumerate(((3, width, 2), (width, width, 1), (width, 2 * width, 1)), 1):
            setattr(self, f"conv{number}", nn.Conv2d(inner, outer, 3, stride=stride, padding=1, bias=False))
            setattr(self, f"bn{number}", nn.BatchNorm2d(outer))
        channels = 2 * width
        for level, depth in enumerate(depths):
            blocks = []
            for place in range(depth):
                blocks.append(_Bottleneck(channels, width * 2**level, stride=2 if level and not place else 1))
                channels = width * 2**level * 4
            setattr(self, f"layer{level + 1}", nn.Sequential(*blocks))

    def forward(self, features: Tensor) -> list[Tensor]:
        for conv, norm in ((self.conv1, self.bn1), (self.conv2, self.bn2), (self.conv3, self.bn3)):
            features = F.relu(norm(conv(features)))
        features, levels = F.max_pool2d(features, 3, stride=2, padding=1), []
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            features = layer(features)
            levels.append(features)
        return levels


class _Bottleneck(nn.Module):
    def __init__(self, channels: int, width: int, *, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride=stride, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.downsample = None
        if stride > 1 or channels != 4 * width:
            shortcut = nn.Conv2d(channels, 4 * width, 1, stride=stride, bias=False)
            self.downsample = nn.Sequential(shortcut, nn.BatchNorm2d(4 * width))

    def forward(self, features: Tensor) -> Tensor:
        inner = F.relu(self.bn1(self.conv1(features)))
        inner = F.relu(self.bn2(self.conv2(inner)))
        shortcut = features if self.downsample is None else self.downsample(features)
        return F.relu(self.bn3(self.conv3(inner)) + shortcut)


class _Decoder(nn.Module):
    def __init__(self, channels: Sequence[int], pyramid: int, num_classes: int):
        super().__init__()
        self.ppm_conv = nn.ModuleList([_conv_norm(channels[-1], pyramid, 1) for _ in POOL_SIDES])
        self.ppm_last_conv = _conv_norm(channels[-1] + len(POOL_SIDES) * pyramid, pyramid, 3)
        self.fpn_in = nn.ModuleList([_conv_norm(each, pyramid, 1) for each in channels[:-1]])
        self.fpn_out = nn.ModuleList([nn.Sequential(_conv_norm(pyramid, pyramid, 3)) for _ in channels[:-1]])
        self.conv_last = nn.Sequential(
            _conv_norm(len(channels) * pyramid, pyramid, 3), nn.Conv2d(pyramid, num_classes, 1)
        )

    def forward(self, levels: list[Tensor]) -> Tensor:
        top = levels[-1]
        pooled = [_resize(F.adaptive_avg_pool2d(top, side), top) for side in POOL_SIDES]
        features = self.ppm_last_conv(
            torch.cat([top, *(conv(each) for conv, each in zip(self.ppm_conv, pooled, strict=True))], dim=1)
        )
        found = [features]
        for level in reversed(range(len(self.fpn_in))):
            side = self.fpn_in[level](levels[level])
            features = side + _resize(features, side)
            found.insert(0, self.fpn_out[level](features))
        return self.conv_last(torch.cat([found[0], *(_resize(each, found[0]) for each in found[1:])], dim=1))


def _conv_norm(inner: int, outer: int, side: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inner, outer, side, padding=side // 2, bias=False), nn.BatchNorm2d(outer), nn.ReLU(inplace=True)
    )


def _resize(features: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(features, size=like.shape[2:], mode="bilinear", align_corners=False)


def load_upernet(
    config: MapJudgeConfig, palette: Palette
) -> Callable[[Sequence[Image.Image], Sequence[Size]], list[np.ndarray]]:
    """Returns what finds labels. Raises UserError: no file, or one that holds another network."""
    if config.upernet_weights is None:
        raise UserError(
            "judge.upernet_weights: missing; scripts/prepare/convert_upernet.py makes the file from CSAIL's two"
        )
    tensors, _ = read_tensors(Path(config.upernet_weights).expanduser())
    if "decoder.conv_last.1.weight" not in tensors:
        raise UserError(f"judge.upernet_weights={config.upernet_weights}: no UperNet; use convert_upernet.py")
    check_classes("upernet-101", len(tensors["decoder.conv_last.1.weight"]), palette)
    model = UperNet(palette.num_labels)
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[1].strip()[:200]
        raise UserError(f"judge.upernet_weights={config.upernet_weights}: another network ({reason})") from None
    device = pick_device(config.device)
    model = model.eval().requires_grad_(False).to(device)
    return lambda images, sizes: find_classes(model, images, sizes, device)


@torch.inference_mode()
def find_classes(
    model: nn.Module, images: Sequence[Image.Image], sizes: Sequence[Size], device: torch.device
) -> list[np.ndarray]:
    """Returns the label of every pixel at the asked sizes; the images are seen at their own size, padded."""
    mean, std = (torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD))
    found = []
    for image, size in zip(images, sizes, strict=True):
        pixels = torch.from_numpy(np.array(image)).to(device).permute(2, 0, 1).float() / 255
        right, below = (-side % MULTIPLE for side in (image.width, image.height))
        seen = F.pad((pixels - mean) / std, (0, right, 0, below))
        logits = F.interpolate(model(seen[None]), size=seen.shape[1:], mode="bilinear", align_corners=False)
        found.append(largest(logits[0, :, : image.height, : image.width], size))
    return found
