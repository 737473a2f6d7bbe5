"""The card of the miniature that flows: its gates, measured with the bundled judges."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from diffusers import Flux2KleinPipeline

from delora_sd.files.run_folder import write_bytes, write_text
from delora_sd.miniature import JUDGES
from delora_sd.miniature.build.data.dataset import TEST_SEED, render_pictures
from delora_sd.miniature.build.gates import measure
from delora_sd.miniature.build.gates.card import SHEET_CLASSES, SHEET_COLUMNS, base_requests, gate_rows, sheet
from delora_sd.miniature.build.train.flow import sample_flow
from delora_sd.miniature.judges import load_mini_clip, load_mini_dino
from delora_sd.miniature.world.places.contexts import CONTEXTS

NUM_PICTURES, NUM_TEST_GROUPS = 500, 100


def write_all(folder: Path, sheets: Path, *, device: torch.device, guidance: float, say: Callable[[str], None]) -> None:
    """Writes `MODEL_CARD.md` beside the model and `miniature_flow.png`, class by row, place by column."""
    pipeline = Flux2KleinPipeline.from_pretrained(
        folder, dtype=torch.float32, use_safetensors=True, local_files_only=True
    ).to(device)
    pipeline.set_progress_bar_config(disable=True)
    classes, places = base_requests(NUM_PICTURES)
    pixels = sample_flow(pipeline, prompts_of(classes, places), seed=1000, guidance=guidance)
    clip, dino = load_mini_clip(JUDGES["mini-clip"]), load_mini_dino(JUDGES["mini-dino"])
    gates = measure.base_gates(clip, dino, pixels, classes, places)
    gates += measure.vae_gates(pipeline.vae, render_pictures(TEST_SEED, NUM_TEST_GROUPS, held_out=True))
    for gate in gates:
        say(f"card: {gate.name}: {gate.value:.3f} (goal {gate.goal:g})")
    write_text(folder / "MODEL_CARD.md", CARD.format(rows=gate_rows(gates), count=NUM_PICTURES))
    names = list(CONTEXTS)
    cells = [(w, names[(7 * r + c) % len(names)]) for r, w in enumerate(SHEET_CLASSES) for c in range(SHEET_COLUMNS)]
    prompts = prompts_of(*zip(*cells, strict=True))
    write_bytes(sheets / "miniature_flow.png", sheet(sample_flow(pipeline, prompts, seed=5, guidance=guidance)))


def prompts_of(classes: Sequence[str], places: Sequence[str]) -> list[str]:
    return [f"a {word} {CONTEXTS[place].phrase}" for word, place in zip(classes, places, strict=True)]


CARD = """# Model card: the miniature that flows

A very small FLUX.2 klein (diffusers' classes, 64 px, 2 double and 4 single blocks, a text encoder of klein's kind with
three hidden states stacked), on the pictures and judges of the delora_sd miniature and with its autoencoder. It exists
so that the path of rectified flow can be tried offline. It replaces no real model.

Measured on {count} pictures of 20 steps with guidance:

| figure | measured | must be | |
| --- | --- | --- | --- |
{rows}
"""
