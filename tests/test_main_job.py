"""The main job on the bundled miniature, whole: photos in, adapter, images, scores. A wrong sign scores badly."""

from pathlib import Path

from delora_eval.scoring.score import score
from delora_eval.settings import ScoreConfig
from delora_sd.files.run_folder import RunFolder, read_lines
from delora_sd.generation.generate import generate
from delora_sd.settings import (
    AdapterConfig,
    DataConfig,
    GenerateConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TrainingConfig,
)
from delora_sd.training.recipe import train

PROMPTS = tuple(
    f"a {{identifier}} {{class_word}} {place}"
    for place in ("in the snow", "on the beach", "on top of pink fabric", "with a mountain in the background")
)
SMALLEST_RISE = 0.5
"""mini-DINO from the base model's images to the trained subject's; measured 0.83 (from 0.04, real images 0.93)."""


def test_training_makes_an_unseen_subject_recognisable_and_keeps_the_context(tmp_path: Path):
    run = RunFolder(tmp_path / "dog")
    train(
        TrainConfig(
            output_dir=str(run.path),
            model=ModelConfig(base="miniature", offline=True),
            data=DataConfig(dataset="miniature", subject="dog"),
            adapter=AdapterConfig(boundary=5.0),
            optimizer=OptimizerConfig(lr=6e-3),
            training=TrainingConfig(num_steps=100, batch_size=4, prior_weight=0.0),
        )
    )
    for strength in (0.0, 1.0):
        generate(
            GenerateConfig(
                run=str(run.path),
                prompts=PROMPTS,
                images_per_prompt=2,
                strength=strength,
                guidance=3.0,
                num_inference_steps=15,
            )
        )
    score(ScoreConfig(run=str(run.path)))
    assert subject_score(run, "final") - subject_score(run, "base") > SMALLEST_RISE
    assert read_score(run, "final", "context_accuracy") >= 0.75


def subject_score(run: RunFolder, label: str) -> float:
    return read_score(run, label, "dino")


def read_score(run: RunFolder, label: str, name: str) -> float:
    """Returns the total of one score over the image set whose name starts with the label."""
    lines = [line for line in read_lines(run.scores) if line["score"] == name and line["prompt_index"] is None]
    return next(line["value"] for line in lines if (line.get("set") or "").startswith(label))
