"""Methods that are not packs go the same way: train, resume, generate, export, merge; by the same commands."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from delora_sd.adapters.exchange.merge.merged_model import merge_checkpoint
from delora_sd.generation.generate import generate
from delora_sd.settings import (
    AdapterConfig,
    DataConfig,
    GenerateConfig,
    MergeConfig,
    ModelConfig,
    TrainConfig,
    TrainingConfig,
)  # fmt: skip
from delora_sd.training.recipe import train
from delora_sd.training.record.reporter import Reporter

METHODS = {
    "full": AdapterConfig(method="full"),
    "oft": AdapterConfig(method="oft", num_blocks=2),
    "loha": AdapterConfig(method="peft", peft_config="PEFT_FILE"),
}


def note_steps(monkeypatch) -> list[int]:
    """Returns the list to which every trained step's number will be added."""
    steps: list[int] = []
    finish_step = Reporter.after_step

    def after_step(self, report):
        steps.append(report.step)
        finish_step(self, report)

    monkeypatch.setattr(Reporter, "after_step", after_step)
    return steps


def trained_bytes(config: TrainConfig) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in Path(config.output_dir).glob("adapter/*.safetensors")}


@pytest.mark.parametrize("name", METHODS)
def test_three_steps_in_two_calls_then_an_image(name, tiny_sd, photo_folder, tmp_path, monkeypatch):
    (tmp_path / "loha.json").write_text(json.dumps({"peft_type": "LOHA", "r": 4}))
    adapter = METHODS[name]
    if adapter.peft_config:
        adapter = replace(adapter, peft_config=str(tmp_path / "loha.json"))
    config = TrainConfig(
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(base=str(tiny_sd)),
        data=DataConfig(photos=str(photo_folder), class_word="dog"),
        adapter=adapter,
        training=TrainingConfig(num_steps=3, checkpoint_every=2, prior_weight=0.0),
    )
    steps = note_steps(monkeypatch)
    whole = replace(config, output_dir=str(tmp_path / "whole"))
    train(whole)
    train(replace(config, training=replace(config.training, num_steps=2)))
    train(config)
    assert steps == [1, 2, 3, 1, 2, 3]
    ours, theirs = (trained_bytes(each) for each in (config, whole))
    assert ours and ours == theirs
    assert (tmp_path / "run/adapter/adapter_config.json").exists()
    assert len(list((tmp_path / "run").glob("export/*.safetensors"))) == (0 if name == "full" else 2)
    generate(
        GenerateConfig(
            run=str(tmp_path / "run"), prompts=("a {identifier} {class_word}",), images_per_prompt=1,
            num_inference_steps=2,
        )
    )  # fmt: skip
    assert len(list((tmp_path / "run/images").rglob("*.png"))) == 1
    merge_checkpoint(MergeConfig(run=str(tmp_path / "run"), output=str(tmp_path / "merged")))
    assert (tmp_path / "merged/model_index.json").exists()
