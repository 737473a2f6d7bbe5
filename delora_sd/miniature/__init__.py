"""The bundled miniature world: a small, real Stable Diffusion with its own pictures, judges and subjects."""

from pathlib import Path

WEIGHTS_FOLDER = Path(__file__).parent / "weights"
BASE_FOLDER = WEIGHTS_FOLDER / "sd"
SUBJECTS_FOLDER = Path(__file__).parent / "subjects"
JUDGES = {"mini-dino": WEIGHTS_FOLDER / "mini_dino", "mini-clip": WEIGHTS_FOLDER / "mini_clip"}
SEGMENTER_FOLDER = WEIGHTS_FOLDER / "mini_seg"
