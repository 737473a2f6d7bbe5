"""Encoders with no weights that see only average colours: small, exact, and the same on every machine."""

from pathlib import Path

import numpy as np
import torch
from delora_eval.embedding import Judge
from delora_eval.encoders import ENCODERS, Encoder, Weights
from delora_eval.images import HALF, Preprocessing
from delora_eval.settings import EncoderConfig
from PIL import Image

TINY = Preprocessing(resize="short_side", resize_px=16, crop_px=16, resample="bicubic", mean=HALF[0], std=HALF[1])
WORDS = ("snow", "beach", "jungle", "dog", "cat", "toy", "red", "qwe")


def see_colours(pictures: torch.Tensor) -> torch.Tensor:
    """Mean colour of every quarter of the picture, and a constant so that black is no zero vector."""
    quarters = torch.nn.functional.adaptive_avg_pool2d(pictures, 2).flatten(1)  # (N, 12)
    return torch.cat([quarters, torch.full((len(pictures), 1), 0.5)], dim=1)


def read_words(texts: list[str]) -> torch.Tensor:
    """Which known words a text holds."""
    rows = [[float(word in text.split()) for word in WORDS] + [0.1] * (13 - len(WORDS)) for text in texts]
    return torch.tensor(rows)


def make_judge(*, is_random: bool = False) -> Judge:
    """A judge whose every encoder is a stand-in."""
    judge = Judge(config=EncoderConfig(batch_size=3, num_readers=2))
    for name, spec in ENCODERS.items():
        file = None if is_random else Path("standin.safetensors")
        judge.weights[name] = Weights(spec=spec, file=file, hash="random" if is_random else "0123456789abcdef")
        judge.encoders[name] = Encoder(
            id=name, device=torch.device("cpu"), preprocessing=TINY, see=see_colours, read=read_words
        )
    return judge


def draw_picture(file: Path, seed: int, size_px: int = 32) -> Path:
    """A picture of four coloured quarters with some noise."""
    rng = np.random.default_rng(seed)
    quarters = rng.integers(40, 216, (2, 2, 3)).repeat(size_px // 2, axis=0).repeat(size_px // 2, axis=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((quarters + rng.integers(-20, 20, quarters.shape)).astype(np.uint8)).save(file)
    return file
