"""SigLIP 2 NaFlex through transformers: patch vectors, its pooling over some patches only, and texts."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor, nn

from delora_eval.scoring.judges.masc.patches import patch_grid, to_patches
from delora_eval.scoring.judges.networks.encoders import fill
from delora_eval.scoring.judges.networks.weights import Weights
from delora_eval.scoring.judges.networks.words import Tokenize, folder_tokenizer, random_tokenizer

_TOWER = {"hidden_size": 1152, "intermediate_size": 4304, "num_hidden_layers": 27, "num_attention_heads": 16}
CONFIG = {
    "vision_config": _TOWER | {"patch_size": 16, "num_patches": 256},
    "text_config": _TOWER | {"vocab_size": 256_000, "max_position_embeddings": 64, "projection_size": 1152},
}
"""config.json of google/siglip2-so400m-patch16-naflex, where it differs from transformers' defaults."""


@dataclass(frozen=True, kw_only=True)
class PatchEncoder:
    """A loaded SigLIP 2 and its tokenizer."""

    model: nn.Module
    tokenize: Tokenize
    device: torch.device


def load_patch_encoder(weights: Weights, device: torch.device) -> PatchEncoder:
    """Returns the encoder in fp32. Raises UserError when the file holds the weights of something else."""
    sizes = CONFIG | weights.spec.sizes
    (model,) = fill(weights, lambda: (_build(sizes),), device)
    return PatchEncoder(model=model, tokenize=_tokenizer(sizes["text_config"], weights.tokenizer), device=device)


def see_patches(encoder: PatchEncoder, image: Image.Image) -> tuple[Float[Tensor, "P D"], tuple[int, int]]:
    """Returns (the image's patch vectors, their grid); not unit vectors: the pooling needs them as they are.

    One image at a time, without padding: a number cannot depend on what else is in a batch.
    """
    grid = patch_grid(image.height, image.width)
    patches = to_patches(image, grid)[None].to(encoder.device)
    present = torch.ones(patches.shape[:2], dtype=torch.int32, device=encoder.device)
    shapes = torch.tensor([grid], device=encoder.device)
    with torch.inference_mode():
        tokens = encoder.model.vision_model(patches, present, shapes).last_hidden_state[0]
    return tokens.float().cpu(), grid


def pool_patches(
    encoder: PatchEncoder, tokens: Float[Tensor, "P D"], kept: Bool[Tensor, " P"]
) -> Float[Tensor, " D"] | None:
    """Returns the unit vector that SigLIP 2's own pooling makes of the kept patches; None when none is kept."""
    if not kept.any():
        return None
    head, visible = encoder.model.vision_model.head, tokens[kept][None].to(encoder.device)
    with torch.inference_mode():
        pooled = head.attention(head.probe, visible, visible)[0]
        pooled = pooled + head.mlp(head.layernorm(pooled))
    return F.normalize(pooled[0, 0].float(), dim=-1).cpu()


def read_patch_texts(encoder: PatchEncoder, texts: Sequence[str]) -> Float[Tensor, "N D"]:
    """Returns unit vectors of the texts."""
    with torch.inference_mode():
        vectors = encoder.model.text_model(encoder.tokenize(texts).to(encoder.device)).pooler_output
    return F.normalize(vectors.float(), dim=-1).cpu()


def _build(sizes: dict[str, Any]) -> nn.Module:
    from transformers import Siglip2Config, Siglip2Model

    return Siglip2Model(Siglip2Config(**sizes))


def _tokenizer(text_config: dict[str, Any], folder: Path | None) -> Tokenize:
    length = text_config["max_position_embeddings"]
    return folder_tokenizer(folder, length) if folder else random_tokenizer(text_config["vocab_size"], length)
