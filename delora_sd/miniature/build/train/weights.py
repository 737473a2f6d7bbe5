"""The weights that a base's training ends with: averaged over its steps, then written as a pipeline folder."""

from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors.torch import load_file
from torch import Tensor, nn

from delora_sd.files.run_folder import read_json, write_folder, write_json

EMA_DECAY = 0.999


@torch.no_grad()
def update_average(average: nn.Module, model: nn.Module, number: int) -> None:
    """Moves the average towards the model after step `number`, faster in the beginning."""
    decay = min(EMA_DECAY, (1 + number) / (10 + number))
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1 - decay)


def averaged_weights(checkpoint: Path) -> dict[str, Tensor]:
    """The average `{part.*}` in a stage's checkpoint, finished or not."""
    prefix = "module/average/"
    tensors = load_file(checkpoint)
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def write_pipeline(pipeline: DiffusionPipeline, folder: Path) -> None:
    """Writes the pipeline in fp16, whole or not at all, without the places its parts were loaded from."""
    pipeline.to(dtype=torch.float16)

    def write(target: Path) -> None:
        pipeline.save_pretrained(target, safe_serialization=True)
        for file in target.glob("*/config.json"):  # a part that was loaded names the folder it came from
            facts = read_json(file)
            facts.pop("_name_or_path", None)
            write_json(file, facts)

    write_folder(folder, write)
