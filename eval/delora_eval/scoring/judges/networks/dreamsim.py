"""DreamSim's ensemble (Fu et al. 2023): DINO, OpenAI CLIP and OpenCLIP B/16, tuned on people's triplets of images.

Its distance is 1 - cosine of the vectors made here. Weights come from scripts/prepare/convert_dreamsim.py, which has
merged DreamSim's LoRA into them.
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
OPENAI_CLIP = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))

SIZES = {"embed_dim": 768, "depth": 12, "num_heads": 12}
PROJECTED = 512
"""Width of CLIP's joint space; DINO's CLS token stays as wide as it is."""


class DreamSimEnsemble(nn.Module):
    """Images in 0..1, (N, 3, 224, 224), to DreamSim's unit vectors with mean 0."""

    def __init__(self, *, sizes: dict[str, Any] | None = None, projected: int = PROJECTED):
        super().__init__()
        sizes = SIZES | (sizes or {})
        self.dino = _dino(sizes)
        self.clip = _clip(sizes, activation=_quick_gelu())
        self.open_clip = _clip(sizes, activation=nn.GELU)
        for name in ("clip", "open_clip"):
            projection = torch.randn(sizes["embed_dim"], projected) / sizes["embed_dim"] ** 0.5
            self.register_parameter(f"{name}_projection", nn.Parameter(projection))

    def forward(self, images: Float[Tensor, "N 3 H W"]) -> Float[Tensor, "N D"]:
        seen_by_dino, seen_by_clip = (_normalise(images, *statistics) for statistics in (IMAGENET, OPENAI_CLIP))
        parts = (
            self.dino(seen_by_dino),
            self.clip(seen_by_clip) @ self.clip_projection,
            self.open_clip(seen_by_clip) @ self.open_clip_projection,
        )
        vectors = torch.cat(parts, dim=1)
        return nn.functional.normalize(vectors - vectors.mean(dim=1, keepdim=True), dim=1)


def _dino(sizes: dict[str, Any]) -> nn.Module:
    """Its CLS token is taken before the final norm."""
    from timm.models.vision_transformer import VisionTransformer

    model = VisionTransformer(patch_size=16, num_classes=0, norm_layer=partial(nn.LayerNorm, eps=1e-6), **sizes)
    model.norm = nn.Identity()
    return model


def _clip(sizes: dict[str, Any], *, activation: type[nn.Module]) -> nn.Module:
    """DreamSim stores CLIP's encoder as a DINO-like transformer: a bias on the patches, a norm before block 1."""
    from timm.models.vision_transformer import VisionTransformer

    norm = partial(nn.LayerNorm, eps=1e-5)
    model = VisionTransformer(patch_size=16, num_classes=0, norm_layer=norm, act_layer=activation, **sizes)
    model.norm_pre = norm(sizes["embed_dim"])
    return model


def _quick_gelu() -> type[nn.Module]:
    from open_clip.transformer import QuickGELU

    return QuickGELU


def _normalise(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    centre, scale = (images.new_tensor(values)[:, None, None] for values in (mean, std))
    return (images - centre) / scale
