"""What is kept of a fine-tuned language model: the adapter in PEFT's layout, the head, the best state on the way."""

from pathlib import Path

import torch

from delora_sd.adapters.exchange.stored.formats import save_adapter
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors, write_tensors
from delora_sd.language.models.attach import Adapted

HEAD_FILE = "head.safetensors"


def save_adapted(adapted: Adapted, folder: Path, *, base: str) -> None:
    """Writes adapter/ (PEFT's layout, or ours with the exact LoRA beside) and head.safetensors where there is one."""
    save_adapter(adapted.pack.adapters[0], folder / "adapter", base=base)
    if adapted.head:
        head = {name: adapted.model.get_parameter(name).detach() for name in adapted.head}
        write_tensors(folder / HEAD_FILE, head, {"format": "pt", "delora.base": base})


def save_state(adapted: Adapted, file: Path, metadata: dict[str, str]) -> None:
    """Writes every trained tensor, whole or not at all."""
    write_tensors(file, {name: parameter.detach() for name, parameter in adapted.trained()}, metadata)


@torch.no_grad()
def load_state(adapted: Adapted, file: Path) -> dict[str, str]:
    """Takes over saved tensors, bit for bit; returns the file's metadata."""
    tensors, metadata = read_tensors(file)
    for name, parameter in adapted.trained():
        if name not in tensors or tensors[name].shape != parameter.shape:
            raise UserError(f"{file}: the state of another training; delete {file.parent} and run it again")
        parameter.copy_(tensors[name])
    return metadata
