"""The model card: the gates measured on the finished weights, and the two sheets of pictures."""

import time
from pathlib import Path

import numpy as np
import torch
from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline
from PIL import Image

from delora_sd.files.run_folder import write_bytes, write_text
from delora_sd.miniature.build.data.dataset import TEST_SEED, render_pictures
from delora_sd.miniature.build.gates import measure
from delora_sd.miniature.build.train.unet import sample
from delora_sd.miniature.judges import load_mini_clip, load_mini_dino
from delora_sd.miniature.segmenter import load_segmenter
from delora_sd.miniature.world.places.contexts import CONTEXTS
from delora_sd.miniature.world.render import render
from delora_sd.miniature.world.things.identity import CLASS_WORDS, draw_identity
from delora_sd.miniature.world.things.scene import place_subject

NUM_TEST_GROUPS = 400  # 200 identities and the lookalike of each
SHEET_CLASSES = ("dog", "cat", "backpack", "teapot", "stuffed animal")
SHEET_COLUMNS = 12
TILE_PX = 68
SHEET_SCALE = 2


def measure_all(
    weights: Path, *, device: torch.device, guidance: float, count: int
) -> tuple[list[measure.Gate], float]:
    """Every gate of the card on `count` base pictures, and the base model's sampling speed in pictures per second."""
    pipeline = load_pipeline(weights / "sd", device)
    clip, dino = load_mini_clip(weights / "mini_clip"), load_mini_dino(weights / "mini_dino")
    real = render_pictures(TEST_SEED, NUM_TEST_GROUPS, held_out=True)
    classes, places = base_requests(count)
    prompts = [f"a {word} {CONTEXTS[place].phrase}" for word, place in zip(classes, places, strict=True)]
    started = time.monotonic()
    pixels = sample(pipeline, prompts, seed=1000, guidance=guidance)
    speed = len(prompts) / (time.monotonic() - started)
    gates = [
        *measure.vae_gates(pipeline.vae, real),
        *measure.clip_gates(clip, real),
        *measure.dino_gates(dino, pipeline.vae, real),
        *measure.base_gates(clip, dino, pixels, classes, places),
        *measure.segmenter_gates(load_segmenter(weights / "mini_seg"), pipeline.vae),
    ]
    return gates, speed


def base_requests(count: int) -> tuple[list[str], list[str]]:
    """Classes and places of the measured base pictures: every pair in turn, spread evenly."""
    pairs = [(word, place) for place in CONTEXTS for word in CLASS_WORDS]
    order = np.random.default_rng(0).permutation(len(pairs))
    chosen = [pairs[order[index % len(pairs)]] for index in range(count)]
    return [word for word, _ in chosen], [place for _, place in chosen]


def load_pipeline(folder: Path, device: torch.device) -> StableDiffusionPipeline:
    """The base model in fp32 with DPM-Solver++, quiet."""
    pipeline = StableDiffusionPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).to(device)
    pipeline.scheduler = DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def write_card(path: Path, gates: list[measure.Gate], *, speed: float, history: str, count: int) -> None:
    """MODEL_CARD.md: what this is, what it is not, and the gates as measured."""
    rows = gate_rows(gates)
    write_text(path, CARD.format(rows=rows, speed=f"{speed:.2f}", history=history, count=count))


def gate_rows(gates: list[measure.Gate]) -> str:
    """The card's table, a line for each gate."""
    return "\n".join(
        f"| {gate.name} | {gate.value:.3f} | {'at most' if gate.is_at_most else 'at least'} {gate.goal:g} "
        f"| {'reached' if gate.is_reached else '**not reached**'} |"
        if "no gate" not in gate.name
        else f"| {gate.name} | {gate.value:.3f} | - | - |"
        for gate in gates
    )


CARD = """# Model card: the delora_sd miniature

A very small Stable Diffusion (standard diffusers classes, 64 px) and three judges, trained only on the procedural
pictures of `delora_sd/miniature`. It exists so that fine-tuning, generation and scoring can be tried and tested offline
in minutes. It replaces no real model: `mini-dino` and `mini-clip` scores are not DINO or CLIP scores.

- `sd/`: StableDiffusionPipeline, fp16. Latents 24 x 8 x 8, UNet (128, 160), text width 128, 24 tokens.
- `mini_dino/`: timm VisionTransformer, identity-contrastive. `mini_clip/`: open_clip CLIP, caption-contrastive.
- `mini_seg/`: a U-Net of 0.7 million parameters that labels every pixel with one of the world's 34 labels.
- Identifiers never seen in training: qwe, sks, ohwx, hta, xjy, vbk, tpz, nqr.
- Data: rendered by this package; no photograph, no third-party picture. Licence: as the project.

## Gates, measured on unseen identities and {count} base pictures

| figure | measured | must be | |
| --- | --- | --- | --- |
{rows}

Sampling speed while measuring: {speed} pictures per second (20 steps, DPM-Solver++, guidance, fp32).

## How it was made
{history}
"""


def write_sheets(weights: Path, folder: Path, *, device: torch.device, guidance: float) -> None:
    """`miniature_world.png` (rendered) and `miniature_base.png` (sampled), class by row, place by column."""
    places = list(CONTEXTS)
    cells = [(w, places[(7 * r + c) % len(places)]) for r, w in enumerate(SHEET_CLASSES) for c in range(SHEET_COLUMNS)]
    pipeline = load_pipeline(weights / "sd", device)
    prompts = [f"a {word} {CONTEXTS[place].phrase}" for word, place in cells]
    write_bytes(folder / "miniature_base.png", sheet(sample(pipeline, prompts, seed=5, guidance=guidance)))
    rng = np.random.default_rng(3)
    world = [
        place_subject(
            rng, draw_identity(rng, held_out=False, class_word=word), place=places[(7 * row + column) % len(places)]
        )
        for row, word in enumerate(CLASS_WORDS)
        for column in range(SHEET_COLUMNS)
    ]
    write_bytes(folder / "miniature_world.png", sheet(np.stack([np.asarray(render(scene)) for scene in world])))


def sheet(pixels: np.ndarray) -> bytes:
    """A PNG with `SHEET_COLUMNS` pictures per row, doubled in size."""
    from delora_sd.miniature.build.data.subjects import png_bytes

    rows = -(-len(pixels) // SHEET_COLUMNS)
    page = Image.new("RGB", (SHEET_COLUMNS * TILE_PX, rows * TILE_PX), "white")
    for index, picture in enumerate(pixels):
        page.paste(
            Image.fromarray(picture), (index % SHEET_COLUMNS * TILE_PX + 2, index // SHEET_COLUMNS * TILE_PX + 2)
        )
    return png_bytes(page.resize((page.width * SHEET_SCALE, page.height * SHEET_SCALE), Image.Resampling.NEAREST))
