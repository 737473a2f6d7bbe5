"""The miniature's judges: building and loading `mini-dino` (a timm ViT) and `mini-clip` (an open_clip CLIP).

Their scores are no DINO or CLIP scores: they know this world only.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from delora_sd.files.run_folder import read_json, write_folder, write_json
from delora_sd.miniature.text import MAX_TOKENS, new_tokenizer, token_ids

MEAN = STD = (0.5, 0.5, 0.5)
Tokenize = Callable[[Sequence[str]], torch.Tensor]

DINO_CONFIG: dict[str, Any] = {
    "name": "mini-dino",
    "library": "timm",
    "architecture": {
        "img_size": 64,
        "patch_size": 8,
        "embed_dim": 128,
        "depth": 4,
        "num_heads": 4,
        "num_classes": 0,
        "global_pool": "avg",
    },
    "image_size": 64,
    "mean": MEAN,
    "std": STD,
}
CLIP_CONFIG: dict[str, Any] = {
    "name": "mini-clip",
    "library": "open_clip",
    "model_cfg": {
        "embed_dim": 128,
        "vision_cfg": {"image_size": 64, "patch_size": 8, "width": 128, "layers": 4, "head_width": 32},
        "text_cfg": {"context_length": MAX_TOKENS, "vocab_size": 0, "width": 128, "heads": 4, "layers": 2},
    },
    "image_size": 64,
    "mean": MEAN,
    "std": STD,
    "tokenizer": "tokenizer",
}


def new_mini_dino(config: dict[str, Any]) -> nn.Module:
    """An untrained timm VisionTransformer; (batch, 3, 64, 64) to features (batch, 128)."""
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(**config["architecture"])


def new_mini_clip(config: dict[str, Any]) -> nn.Module:
    """An untrained open_clip CLIP with `encode_image` and `encode_text`."""
    from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

    model_cfg = config["model_cfg"]
    return CLIP(
        embed_dim=model_cfg["embed_dim"],
        vision_cfg=CLIPVisionCfg(**model_cfg["vision_cfg"]),
        text_cfg=CLIPTextCfg(**model_cfg["text_cfg"]),
    )


def clip_config() -> dict[str, Any]:
    """The configuration of mini-clip with the world's vocabulary size filled in."""
    text_cfg = CLIP_CONFIG["model_cfg"]["text_cfg"] | {"vocab_size": len(new_tokenizer())}
    return CLIP_CONFIG | {"model_cfg": CLIP_CONFIG["model_cfg"] | {"text_cfg": text_cfg}}


def load_mini_dino(folder: Path) -> nn.Module:
    """The trained identity judge in fp32, in evaluation mode; its output is the feature."""
    model = new_mini_dino(read_json(Path(folder) / "config.json"))
    return _load(model, Path(folder))


def load_mini_clip(folder: Path) -> tuple[nn.Module, Tokenize]:
    """The trained caption judge in fp32 and its `tokenize(texts) -> (texts, 24)` token ids."""
    from transformers import CLIPTokenizer

    config = read_json(Path(folder) / "config.json")
    tokenizer = CLIPTokenizer.from_pretrained(Path(folder) / config["tokenizer"], local_files_only=True)
    return _load(new_mini_clip(config), Path(folder)), lambda texts: token_ids(tokenizer, list(texts))


def save_judge(model: nn.Module, config: dict[str, Any], folder: Path) -> None:
    """Writes `model.safetensors` (fp16), `config.json` and, for mini-clip, its tokenizer."""
    tensors = {name: value.detach().half().contiguous().cpu() for name, value in model.state_dict().items()}

    def write(target: Path) -> None:
        save_file(tensors, target / "model.safetensors")
        write_json(target / "config.json", config)
        if "tokenizer" in config:
            new_tokenizer().save_pretrained(target / config["tokenizer"])

    write_folder(folder, write)


def _load(model: nn.Module, folder: Path) -> nn.Module:
    tensors = load_file(folder / "model.safetensors")
    model.load_state_dict({name: value.float() for name, value in tensors.items()})
    return model.eval().requires_grad_(False)
