"""Good files to start from: an adapter in every layout, a finished run, a finished benchmark. Made once per process."""

import io
import json
import tempfile
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from make_tiny_sd import UNET

if TYPE_CHECKING:
    from torch import nn

    from delora_sd.settings import AdapterConfig

LAYERS = (
    "down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q",
    "mid_block.attentions.0.transformer_blocks.0.attn2.to_k",
)


@cache
def small_unet() -> "nn.Module":
    """The UNet of the tests' tiny model; random weights will do."""
    import torch
    from diffusers import UNet2DConditionModel

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return UNet2DConditionModel(**UNET).eval().requires_grad_(False)


@cache
def adapter_files() -> dict[str, bytes]:
    """Returns {path: content}: one file or folder per layout that we read."""
    from delora_sd.settings import AdapterConfig

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for method, settings in {
            "lora": {}, "dora": {}, "delora": {}, "ether": {}, "oft": {"num_blocks": 2}, "full": {},
        }.items():  # fmt: skip
            _save(AdapterConfig(method=method, rank=2, **settings), folder / method)
        _save(AdapterConfig(method="delora", rank=2, init="zero_up"), folder / "peft_delora")
        _write_plain(folder)
        return _contents(folder)


@cache
def run_files() -> dict[str, bytes]:
    """Returns {path: content} of a finished run with two images, scores and events, below `run/`."""
    from delora_sd.config.load import to_yaml
    from delora_sd.settings import DataConfig, TrainConfig

    config = TrainConfig(output_dir="run", data=DataConfig(photos="run/photos", class_word="dog"))
    layers = {layer: {"distance": 0.5, "relative_distance": 0.01, "boundary": 8.0} for layer in LAYERS}
    events = [{"step": step, "loss": 0.1, "lr": 1e-3, "grad_norm": 0.2, "distance": 0.3} for step in (1, 2)]
    images = [_image(seed) for seed in (0, 1)]
    scores = [
        _score("final-1a2b", "dino", None),
        _score("final-1a2b", "dino", 0),
        _score("reference photos", "real_dino", None),
    ]
    return {
        "run/config.yaml": to_yaml(config).encode(),
        "run/manifest.json": _json(_manifest()),
        "run/events.jsonl": _lines([*events, {"step": 2, "layers": layers}]),
        "run/failed.json": _json({"step": 2, "reason": "the loss was not finite"}),
        "run/scores.jsonl": _lines(scores),
        "run/images/final-1a2b/images.jsonl": _lines(images),
        **{f"run/images/final-1a2b/{line['file']}": _png() for line in images},
        "run/photos/1.png": _png(),
        "run/adapter/adapter_config.json": _json({"peft_type": "LORA", "base_model_name_or_path": "miniature"}),
        "run/checkpoints/step-000002/progress.json": _json({"step": 2, "loss_scale": 1.0}),
    }


@cache
def benchmark_files() -> dict[str, bytes]:
    """Returns {path: content} of a benchmark of one method and two steps, below `run/`."""
    run = {name.removeprefix("run/"): content for name, content in run_files().items()}
    cell = {"id": "lora-dog-s0-1a2b3c4d", "method": "lora", "subject": "dog", "seed": 0, "setting": {"adapter.rank": 4}}
    cell |= {"steps": [1, 2], "path": None, "prompts": None}
    candidate = {"method": "lora", "setting": {"adapter.rank": 4}, "value": 0.5, "step": 2, "cells": 1, "scored": 1}
    chosen = {
        "lora": {"setting": {"adapter.rank": 4}, "score": "dino", "value": 0.5, "step": 2, "candidates": [candidate]}
    }
    outcome = {"state": "finished", "evaluation": "x", "reason": None, "seconds": {"generate": 1.0, "score": 1.0}}
    settings = {"output_dir": "run", "methods": {"lora": {"label": "LoRA"}}, "subjects": ["dog"], "steps": [1, 2]}
    own = {name: content for name, content in run.items() if "photos" not in name and name != "failed.json"}
    return {
        "run/benchmark.yaml": _json(settings),
        "run/plan.json": _json({"tune": [cell], "test": [cell]}),
        "run/chosen.json": _json(chosen),
        f"run/cells/{cell['id']}/outcome.json": _json(outcome),
        **{f"run/cells/{cell['id']}/{name}": content for name, content in own.items()},
    }


def _save(config: "AdapterConfig", folder: Path) -> None:
    import copy

    from delora_sd.adapters.attach import attach_method
    from delora_sd.adapters.exchange.stored.formats import save_adapter

    pack = attach_method(copy.deepcopy(small_unet()), [config], seeds=[0])
    save_adapter(pack.adapters[0], folder, base="miniature")


def _write_plain(folder: Path) -> None:
    """Plain LoRA files of two layers in the spellings of kohya, diffusers and old diffusers."""
    import torch
    from safetensors.torch import save_file

    spellings = {
        "kohya": lambda layer: (f"lora_unet_{layer.replace('.', '_')}.lora_down.weight", "lora_down", "lora_up"),
        "diffusers": lambda layer: (f"unet.{layer}.lora_A.weight", "lora_A", "lora_B"),
        "old": lambda layer: (f"unet.{_old(layer)}.down.weight", ".down.", ".up."),
    }
    declared = json.dumps({"unet.r": 2, "unet.lora_alpha": 2, "unet.alpha_pattern": {"to_k": 4}})
    for name, spell in spellings.items():
        tensors = {}
        for layer in LAYERS:
            weight = small_unet().get_submodule(layer).weight
            key, down, up = spell(layer)
            tensors[key] = torch.ones(2, weight.shape[1])
            tensors[key.replace(down, up)] = torch.ones(weight.shape[0], 2)
            if name == "kohya":
                tensors[key.replace("lora_down.weight", "alpha")] = torch.tensor(2.0)
        save_file(tensors, folder / f"{name}.safetensors", metadata={"lora_adapter_metadata": declared})


def _old(layer: str) -> str:
    parent, _, name = layer.rpartition(".")
    return f"{parent}.processor.{name}_lora"


def _manifest() -> dict[str, Any]:
    subject = {"name": "dog", "class_word": "dog", "is_live": True}
    base = {
        "id": "miniature",
        "fingerprint": "f" * 64,
        "random_weights": False,
        "size_px": 32,
        "prediction_type": "epsilon",
    }
    facts = {"device": "a CPU", "seed": 0, "git": None, "trainable_parameters": 100, "photos": {"1.png": "a" * 64}}
    ended = {"finished_step": 1400, "seconds": 3.0, "pack": 1, "peak_memory_bytes": None}
    return (
        {"format": 1, "delora_sd": "0.1.0", "versions": {"torch": "2"}, "subject": subject, "base": base}
        | facts
        | ended
    )


def _image(seed: int) -> dict[str, Any]:
    own = {"file": f"00-a-dog-s{seed}.png", "prompt": "a qwe dog", "template": "a {identifier} dog", "prompt_index": 0}
    sampling = {"num_inference_steps": 25, "guidance": 7.5, "negative_prompt": "", "size_px": 32, "base": "miniature"}
    return own | {"seed": seed, "step": None, "strength": 1.0, "adapter": "ab" * 8, "random_weights": False} | sampling


def _score(name: str, score: str, prompt_index: int | None) -> dict[str, Any]:
    is_total = prompt_index is None
    source = {
        "set": name,
        "protocol": "miniature",
        "inputs": "x",
        "score": score,
        "encoder": "mini-dino",
        "weights": "ab",
    }
    subject = {"subject": "dog", "prompt": None if is_total else "a qwe dog", "prompt_index": prompt_index, "photos": 1}
    number = {"value": 0.5, "pairs": 2, "images": 2, "step": None, "strength": 1.0, "base": "miniature"}
    return source | subject | number | {"random_weights": False, "random_base": False}


def _json(value: Any) -> bytes:
    return json.dumps(value).encode()


def _lines(records: list[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(record)}\n" for record in records).encode()


@cache
def _png() -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.new("RGB", (32, 32), (200, 100, 50)).save(buffer, "PNG")
    return buffer.getvalue()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in sorted(folder.rglob("*")) if file.is_file()}
