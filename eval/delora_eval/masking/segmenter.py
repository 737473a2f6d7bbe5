"""CLIPSeg through transformers: how sure it is, pixel by pixel, that a photo shows what a word says."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from PIL import Image
from torch import nn

from delora_eval.scoring.judges.networks.encoders import pick_device
from delora_eval.settings import MasksConfig
from delora_sd.errors import UserError
from delora_sd.files.hub import find_model_folder


@dataclass(frozen=True, kw_only=True)
class Segmenter:
    """A loaded CLIPSeg, in fp32."""

    model: nn.Module
    processor: Any
    device: torch.device


def load_segmenter(config: MasksConfig) -> Segmenter:
    """Returns the segmenter of a hub id or a local folder; safetensors only.

    Raises:
        UserError: nothing there, or no CLIPSeg.
    """
    from transformers import AutoConfig, CLIPSegForImageSegmentation, CLIPSegProcessor

    try:
        folder = find_model_folder(config.segmenter, is_offline=config.offline)
        kind = AutoConfig.from_pretrained(folder, local_files_only=True).model_type
        if kind != "clipseg":
            raise UserError(f"segmenter={config.segmenter}: a {kind} model; expected a CLIPSeg")
        processor = CLIPSegProcessor.from_pretrained(folder, local_files_only=True)
        model = CLIPSegForImageSegmentation.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except (OSError, ValueError, ImportError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UserError(
            f"segmenter={config.segmenter}: cannot be loaded ({reason}); give a local folder with a CLIPSeg "
            "(config.json, model.safetensors, preprocessor_config.json, tokenizer files), or go online once"
        ) from None
    device = pick_device(config.device)
    return Segmenter(model=model.float().eval().requires_grad_(False).to(device), processor=processor, device=device)


def find_subject(segmenter: Segmenter, photo: Image.Image, class_word: str) -> Float[np.ndarray, "height width"]:
    """Returns how sure the segmenter is of every pixel, 0..1, at the photo's own size."""
    inputs = segmenter.processor(text=[class_word], images=[photo], padding=True, return_tensors="pt")
    with torch.inference_mode():
        logits = segmenter.model(**inputs.to(segmenter.device)).logits
    sure = logits.float().sigmoid().reshape(1, 1, *logits.shape[-2:])
    resized = F.interpolate(sure, size=(photo.height, photo.width), mode="bilinear", align_corners=False)
    return resized[0, 0].cpu().numpy()
