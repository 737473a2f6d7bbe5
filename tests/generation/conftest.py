"""A trained run folder on the tiny model, and the settings to generate from it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from delora_sd.adapters.exchange.stored.formats import save_adapter
from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.config.load import to_yaml
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.files.run_folder import FORMAT_VERSION, RunFolder, write_json, write_text
from delora_sd.settings import AdapterConfig, DataConfig, GenerateConfig, ModelConfig, TrainConfig


def _write_adapter(folder: Path, model: ModelConfig, *, seed: int) -> None:
    """A LoRA far from zero: its images differ from the base's."""
    unet = load_denoiser(find_base(model), device="cpu", dtype=torch.float32)
    adapter = attach_adapters(unet, [AdapterConfig(method="lora", rank=2)], seeds=[seed]).adapters[0]
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator))
    save_adapter(adapter, folder, base=model.base)


@pytest.fixture(scope="session")
def trained_run(tiny_sd: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with a checkpoint at step 5; never written to."""
    run = RunFolder(tmp_path_factory.mktemp("runs") / "rex")
    model = ModelConfig(base=str(tiny_sd))
    config = TrainConfig(
        output_dir=str(run.path), model=model, data=DataConfig(photos="no/longer/there", class_word="dog")
    )
    write_text(run.config, to_yaml(config))
    subject = {"name": "rex", "class_word": "dog", "is_live": True}
    write_json(run.manifest, {"format": FORMAT_VERSION, "subject": subject})
    _write_adapter(run.checkpoint(5) / "adapter", model, seed=1)
    _write_adapter(run.adapter, model, seed=2)
    return run.path


@pytest.fixture
def run(trained_run: Path, tmp_path: Path) -> Path:
    """The test's own copy of the trained run."""
    return Path(shutil.copytree(trained_run, tmp_path / "rex"))


@pytest.fixture
def config(run: Path) -> Callable[..., GenerateConfig]:
    """Settings for six small images: three prompts, two seeds, three steps."""

    def make(**changes) -> GenerateConfig:
        prompts = ("a photo of {identifier} {class_word}", "a red {identifier} {class_word}", "a {class_word}")
        defaults = {"run": str(run), "prompts": prompts, "images_per_prompt": 2, "num_inference_steps": 3}
        return GenerateConfig(**defaults | changes)

    return make
