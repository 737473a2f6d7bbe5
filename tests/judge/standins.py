"""Encoders with no weights that see only average colours, and small run folders to judge: the same on every machine."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image

from delora_eval.scoring.judges.embedding import Judge
from delora_eval.scoring.judges.networks.encoders import Encoder
from delora_eval.scoring.judges.networks.preprocessing import HALF, Preprocessing
from delora_eval.scoring.judges.networks.weights import ENCODERS, Weights
from delora_eval.settings import EncoderConfig
from delora_sd.config.load import to_yaml
from delora_sd.files.run_folder import write_json, write_lines, write_text
from delora_sd.settings import DataConfig, TrainConfig

TINY = Preprocessing(resize="short_side", resize_px=16, crop_px=16, resample="bicubic", mean=HALF[0], std=HALF[1])
WORDS = ("snow", "beach", "jungle", "dog", "cat", "toy", "red", "qwe")


def see_colours(images: torch.Tensor) -> torch.Tensor:
    """Mean colour of every quarter of the image, and a constant so that black is no zero vector."""
    quarters = torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)  # (N, 12)
    return torch.cat([quarters, torch.full((len(images), 1), 0.5)], dim=1)


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


def draw_image(file: Path, seed: int, size_px: int = 32) -> Path:
    """An image of four coloured quarters with some noise."""
    rng = np.random.default_rng(seed)
    quarters = rng.integers(40, 216, (2, 2, 3)).repeat(size_px // 2, axis=0).repeat(size_px // 2, axis=1)
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((quarters + rng.integers(-20, 20, quarters.shape)).astype(np.uint8)).save(file)
    return file


PROMPTS = ("a {identifier} {class_word} in the snow", "a {identifier} {class_word} on the beach")


def write_run(folder: Path) -> Path:
    """A run folder with subject images, class images and the base model's own class images; nothing else yet."""
    for i in range(3):
        draw_image(folder / "photos" / f"{i}.png", seed=100 + i)
    run = folder / "run"
    config = TrainConfig(data=DataConfig(photos=str(folder / "photos"), class_word="dog"))
    write_text(run / "config.yaml", to_yaml(config))
    write_json(run / "manifest.json", {"format": 1})
    write_set(run, "main", PROMPTS)
    plain = [template.replace("{identifier} ", "") for template in PROMPTS]
    write_set(run, "class", plain, first_image=50)
    write_set(run, "class-base", plain, strength=0.0, first_image=53)
    return run


def write_set(
    run: Path, name: str, templates, *, strength: float = 1.0, first_image: int = 0, per_prompt: int = 2
) -> None:
    """One image set, with its lines as `generate` writes them."""
    lines = []
    for index, template in enumerate(templates):
        for seed in range(per_prompt):
            file = f"{index:02d}-s{seed}.png"
            draw_image(run / "images" / name / file, seed=first_image + 10 * index + seed)
            prompt = template.replace("{identifier}", "qwe").replace("{class_word}", "dog")
            lines.append({"file": file, "prompt": prompt, "template": template, "prompt_index": index, "seed": seed})
            lines[-1] |= {"step": 100, "strength": strength, "guidance": 7.5, "num_inference_steps": 25}
            lines[-1] |= {"negative_prompt": "", "size_px": 32, "base": "tiny", "random_weights": False}
    write_lines(run / "images" / name / "images.jsonl", lines)
