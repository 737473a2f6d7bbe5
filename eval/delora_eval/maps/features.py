"""What FID and KID compare images by: Inception's last features, or mini-dino's in the miniature world."""

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from delora_eval.maps.settings import MapJudgeConfig
from delora_eval.scoring.judges.networks.encoders import pick_device
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors
from delora_sd.maps.dataset import MINIATURE

DINO_PX = 64
"""What mini-dino sees; the miniature's images are of this size."""

Look = Callable[[Sequence[Image.Image]], np.ndarray]
"""RGB images -> (images, features), float64."""


def load_features(config: MapJudgeConfig, segmenter: str) -> tuple[str, Look] | None:
    """Returns (name, look); None where no Inception was given: the distances are then left out.

    Raises:
        UserError: a file that is no converted Inception, or torch-fidelity is not installed.
    """
    if segmenter == MINIATURE:
        return "mini-dino", _load_mini_dino()
    if config.inception is None:
        return None
    return "Inception v3 (2015-12-05)", _load_inception(Path(config.inception).expanduser(), config)


def _load_mini_dino() -> Look:
    from delora_sd.miniature import JUDGES
    from delora_sd.miniature.judges import load_mini_dino

    model = load_mini_dino(JUDGES["mini-dino"])

    @torch.inference_mode()
    def look(images: Sequence[Image.Image]) -> np.ndarray:
        seen = [image.resize((DINO_PX, DINO_PX), Image.Resampling.BICUBIC) for image in images]
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in seen]))
        return model(pixels.permute(0, 3, 1, 2).float().div(127.5).sub(1)).double().numpy()

    return look


def _load_inception(file: Path, config: MapJudgeConfig) -> Look:
    """torch-fidelity's network, which computes what the original FID did; it reads only pickles, so ours is written."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except ImportError:
        raise UserError("judge.inception: needs torch-fidelity; pip install 'delora_sd[maps]'") from None
    tensors, _ = read_tensors(file)
    with tempfile.NamedTemporaryFile(suffix=".pth") as pickled:
        torch.save(tensors, pickled.name)
        try:
            model = FeatureExtractorInceptionV3("inception", ["2048"], feature_extractor_weights_path=pickled.name)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[0]
            raise UserError(f"judge.inception={file}: not the weights of FID's Inception ({reason})") from None
    device = pick_device(config.device)
    model = model.to(device)

    @torch.inference_mode()
    def look(images: Sequence[Image.Image]) -> np.ndarray:
        pixels = torch.from_numpy(np.stack([np.asarray(image) for image in images])).permute(0, 3, 1, 2)
        return model(pixels.to(device))[0].double().cpu().numpy()

    return look
