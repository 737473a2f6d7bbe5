"""DINO, DINOv2 and DINOv3 as timm builds them: an image becomes the CLS token after the final norm."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

POSITIONS = "pos_embed"


def build_vit(architecture: str, sizes: dict[str, Any]) -> nn.Module:
    """Returns a timm vision transformer whose output is the CLS token; timm's own DINOv3 would average patches."""
    import timm

    return timm.create_model(architecture, pretrained=False, num_classes=0, global_pool="token", **sizes)


def fit_positions(state: dict[str, Tensor], model: nn.Module) -> dict[str, Tensor]:
    """Returns the weights with the position table brought to the model's grid: DINOv2 was published at 518 px."""
    own = model.state_dict().get(POSITIONS)
    found = state.get(POSITIONS)
    if own is None or found is None or own.shape[1] == found.shape[1] or own.shape[2] != found.shape[2]:
        return state
    return state | {POSITIONS: resize_positions(found, grid=round((own.shape[1] - 1) ** 0.5))}


def resize_positions(table: Float[Tensor, "1 tokens D"], *, grid: int) -> Float[Tensor, "1 other_tokens D"]:
    """Returns the CLS position and the patch positions at `grid` x `grid`, as transformers' Dinov2 resizes them."""
    token, patches = table[:, :1].float(), table[:, 1:].float()
    side = round(patches.shape[1] ** 0.5)
    image = patches.reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = F.interpolate(image, size=(grid, grid), mode="bicubic", align_corners=False)
    return torch.cat([token, resized.flatten(2).transpose(1, 2)], dim=1)
