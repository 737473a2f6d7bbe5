"""`full`: the whole UNet trains, as in DreamBooth. The same small interface as an AdapterPack of one."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.pack import ADAPTABLE, find_targets
from delora_sd.adapters.lowrank.pack_of_one import AdapterInUNet, PackOfOne, compute_in
from delora_sd.adapters.peft.layout import CONFIG_FILE
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_folder, write_json
from delora_sd.files.tensors import read_tensors, write_tensors
from delora_sd.quantization import is_quantized
from delora_sd.settings import AdapterConfig

FULL_TYPE = "DELORA_SD_FULL"
"""A `peft_type` that PEFT does not know, so that it refuses the folder."""

FULL_FILE = "unet.safetensors"


class FullAdapter(AdapterInUNet):
    """Every parameter of one UNet, fp32."""

    def __init__(self, config: AdapterConfig, unet: nn.Module):
        super().__init__(config, unet.named_parameters())

    def save(self, folder: Path, *, base: str) -> None:
        """Writes the whole UNet in fp32, whole or not at all: 3.4 GB for Stable Diffusion 1.5."""

        def write(path: Path) -> None:
            metadata = {"format": "pt", "delora.base": base, "delora.method": "full"}
            write_tensors(path / FULL_FILE, dict(self.parameters_by_name()), metadata)
            config = {"peft_type": FULL_TYPE, "base_model_name_or_path": base, "method": "full"}
            write_json(path / CONFIG_FILE, config)

        write_folder(folder, write)

    @torch.no_grad()
    def restore(self, folder: Path) -> None:
        """Takes over saved weights, bit for bit: how training resumes."""
        tensors = _read(folder, {name: tuple(value.shape) for name, value in self.parameters_by_name()})
        for name, parameter in self.parameters_by_name():
            parameter.copy_(tensors[name])


class FullPack(PackOfOne):
    """The whole UNet as a pack of one."""

    def __init__(self, adapter: FullAdapter, pretrained: dict[str, Tensor], current: dict[str, nn.Parameter]):
        super().__init__(adapter)
        self._pretrained = pretrained  # on the CPU: read only when a distance is logged
        self._current = current

    @torch.no_grad()
    def distances(self) -> list[dict[str, tuple[float, float]]]:
        """Returns [{layer: (||W' - W||_F, the same over ||W||_F)}] of the layers in `target_modules`."""
        found = {}
        for layer, before in self._pretrained.items():
            distance = (self._current[layer].cpu() - before.float()).norm().item()
            found[layer] = (distance, distance / max(before.float().norm().item(), 1e-12))
        return [found]


def attach_full(unet: nn.Module, config: AdapterConfig) -> FullPack:
    """Makes every parameter of the UNet train in fp32; a half-precision UNet keeps computing in its precision."""
    if any(isinstance(module, ADAPTABLE) and is_quantized(module) for module in unet.modules()):
        raise UserError("adapter.method: full trains every weight, and model.quantization froze them; use none")
    targets = find_targets(unet, config.target_modules)
    pretrained = {name: layer.weight.detach().to("cpu", copy=True) for name, layer in targets.items()}
    compute_in(unet, next(unet.parameters()).dtype)
    nn.Module.float(unet).requires_grad_(True)  # diffusers' own `float` logs a warning about nothing
    current = {name: layer.weight for name, layer in targets.items()}
    return FullPack(FullAdapter(config, unet), pretrained, current)


def load_full_updates(folder: Path, unet: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns {parameter name: W -> W' - W}."""
    tensors = _read(folder, {name: tuple(value.shape) for name, value in unet.named_parameters()})
    return {name: partial(_difference, value) for name, value in tensors.items()}


def _difference(trained: Tensor, weight: Tensor) -> Tensor:
    return trained.to(weight.device, torch.float32) - weight


def _read(folder: Path, shapes: dict[str, tuple[int, ...]]) -> dict[str, Tensor]:
    tensors, _ = read_tensors(folder / FULL_FILE)
    if differing := sorted(set(tensors) ^ set(shapes)):
        raise UserError(f"{folder} was made for another base: '{differing[0]}' is in only one of the two")
    differing = [name for name, shape in shapes.items() if tuple(tensors[name].shape) != shape]
    if differing:
        found: Any = tuple(tensors[differing[0]].shape)
        raise UserError(
            f"{folder} was made for another base: {len(differing)} weights differ in shape "
            f"({differing[0]} is {found} there, {shapes[differing[0]]} here)"
        )
    return tensors
