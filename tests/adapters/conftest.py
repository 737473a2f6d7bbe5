"""Run folders with a trained-looking adapter, without training."""

import copy
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from adapter_cases import kick

from delora_sd.adapters.attach import attach_method
from delora_sd.adapters.exchange.stored.formats import save_adapter
from delora_sd.config.load import to_yaml
from delora_sd.files.run_folder import RunFolder, write_json, write_text
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, TrainConfig


@pytest.fixture(scope="session")
def base_unet(tiny_sd: Path) -> Callable:
    """Returns a function that gives a fresh UNet of the tiny model on disk."""
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser

    unet = load_denoiser(find_base(ModelConfig(base=str(tiny_sd))), device="cpu", dtype=torch.float32)
    return lambda: copy.deepcopy(unet)


@pytest.fixture
def make_run(tiny_sd: Path, base_unet: Callable, tmp_path: Path) -> Callable:
    """Returns a function: adapter settings -> (run folder with an adapter, the UNet adapted by it)."""

    def make(adapter: AdapterConfig, *, name: str = "rex", size: float = 0.3):
        run = RunFolder(tmp_path / name)
        config = TrainConfig(
            output_dir=str(run.path),
            model=ModelConfig(base=str(tiny_sd)),
            adapter=adapter,
            data=DataConfig(subject="dog", class_word="dog"),
        )
        write_text(run.config, to_yaml(config))
        manifest = {
            "subject": {"class_word": "dog"},
            "base": {"size_px": 32, "prediction_type": "epsilon"},
            "photos": {f"{index}.png": "" for index in range(5)},
        }
        write_json(run.manifest, manifest)
        unet = base_unet()
        pack = kick(attach_method(unet, [adapter], seeds=[0]), size=size)
        save_adapter(pack.adapters[0], run.adapter, base=str(tiny_sd))
        with torch.no_grad():
            pack.make_factors()
        return run, unet

    return make
