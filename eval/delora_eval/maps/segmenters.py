"""Who says which class a pixel shows: the miniature's own, any segmenter of transformers, or CSAIL's UperNet-101.

Adding one: a function that returns a Segmenter, and a line in `load_segmenter`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from delora_eval.maps.answers import Size, check_classes, largest, resize_labels
from delora_eval.maps.settings import MapJudgeConfig
from delora_eval.maps.upernet import load_upernet
from delora_eval.scoring.judges.networks.encoders import pick_device
from delora_sd.errors import UserError
from delora_sd.files.hub import find_model_folder
from delora_sd.maps.dataset import MINIATURE
from delora_sd.maps.palette import Palette

HUB_NAMES = {"segformer-b4": "nvidia/segformer-b4-finetuned-ade-512-512"}
"""{name here: hub id}"""

UPERNET = "upernet-101"


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A loaded segmenter."""

    name: str
    find: Callable[[Sequence[Image.Image], Sequence[Size]], list[np.ndarray]]
    """(images, a size for each) -> the label of every pixel at that size, uint8 from 1."""


def segmenter_name(config: MapJudgeConfig, dataset: str) -> str:
    """Returns who looks when the settings leave it open."""
    if config.segmenter != "auto":
        return config.segmenter
    return MINIATURE if dataset == MINIATURE else "segformer-b4"


def load_segmenter(config: MapJudgeConfig, name: str, palette: Palette) -> Segmenter:
    """Returns the segmenter.

    Raises:
        UserError: nothing of that name, no safetensors, or one that knows another number of classes.
    """
    if name == MINIATURE:
        return _load_miniature(palette)
    if name == UPERNET:
        return Segmenter(name=name, find=load_upernet(config, palette))
    return _load_from_transformers(config, name, palette)


def _load_miniature(palette: Palette) -> Segmenter:
    from delora_sd.miniature import SEGMENTER_FOLDER
    from delora_sd.miniature.segmenter import find_labels, load_segmenter
    from delora_sd.miniature.world.things.labels import LABELS

    check_classes(MINIATURE, len(LABELS), palette)
    if palette.names != LABELS:
        raise UserError("judge.segmenter=miniature: knows the miniature world's classes only, the maps have others")
    model = load_segmenter(SEGMENTER_FOLDER)

    def find(images: Sequence[Image.Image], sizes: Sequence[Size]) -> list[np.ndarray]:
        labels = find_labels(model, torch.from_numpy(np.stack([np.asarray(image) for image in images]))).numpy()
        return [resize_labels(own, size) for own, size in zip(labels, sizes, strict=True)]

    return Segmenter(name="mini-seg", find=find)


def _load_from_transformers(config: MapJudgeConfig, name: str, palette: Palette) -> Segmenter:
    from transformers import AutoImageProcessor, AutoModelForSemanticSegmentation

    try:
        folder = find_model_folder(HUB_NAMES.get(name, name), is_offline=config.offline)
        processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True)
        model = AutoModelForSemanticSegmentation.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"judge.segmenter={name}: cannot be loaded ({reason}); give a folder with config.json, model.safetensors "
            "and preprocessor_config.json, or go online once"
        ) from None
    check_classes(name, model.config.num_labels, palette)
    device = pick_device(config.device)
    model = model.float().eval().requires_grad_(False).to(device)
    return Segmenter(name=name, find=lambda images, sizes: _find(model, processor, images, sizes))


@torch.inference_mode()
def _find(
    model: torch.nn.Module, processor: Any, images: Sequence[Image.Image], sizes: Sequence[Size]
) -> list[np.ndarray]:
    """Logits are brought to the asked size before the largest wins, as the evaluators do."""
    inputs = processor(images=list(images), return_tensors="pt").to(model.device)
    logits = model(**inputs).logits.float()
    return [largest(own, size) for own, size in zip(logits, sizes, strict=True)]
