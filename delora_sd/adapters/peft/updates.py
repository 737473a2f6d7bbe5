"""What any PEFT folder does to a UNet's weights, through PEFT's own merge of each layer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from delora_sd.adapters.lowrank.pack import ADAPTABLE
from delora_sd.adapters.lowrank.quantization import dense_weight
from delora_sd.adapters.peft.bridge import build_config, inject, layer_update, load_state, tuner_layers
from delora_sd.adapters.peft.layout import CONFIG_FILE, PEFT_FILE, PREFIX
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json
from delora_sd.files.tensors import read_tensors


def load_peft_updates(folder: Path, unet: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns {parameter name: W -> W' - W} of any PEFT folder, through PEFT's own merge of each layer."""
    tensors, _ = read_tensors(folder / PEFT_FILE)
    skeleton = _skeleton(unet, _layers_in(tensors, unet, source=folder))
    config = build_config(read_json(folder / CONFIG_FILE), source=folder / CONFIG_FILE)
    model = inject(skeleton, config, source=str(folder))
    load_state(model, folder)
    return {f"{name}.weight": partial(layer_update, layer) for name, layer in tuner_layers(model)}


def _layers_in(tensors: dict[str, Tensor], unet: nn.Module, *, source: Path) -> list[str]:
    """Returns the UNet's layers that the tensors belong to; tensors shared by all layers (VeRA) belong to none."""
    layers = {name for name, module in unet.named_modules() if isinstance(module, ADAPTABLE)}
    found = {}
    for key in tensors:
        parts = key.removeprefix(PREFIX).split(".")
        own = [name for count in range(len(parts), 0, -1) if (name := ".".join(parts[:count])) in layers]
        if own:
            found[own[0]] = None
        elif len(parts) > 2:
            raise UserError(f"{source} was made for another base: this UNet has no layer of '{key}'")
    return list(found)


def _skeleton(unet: nn.Module, names: list[str]) -> nn.Module:
    """Returns a tree of modules with the named layers only, in fp32: PEFT's layers go in here, not into the UNet."""
    root = nn.Module()
    for name in names:
        *path, last = name.split(".")
        parent = root
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, _copy_layer(unet.get_submodule(name)))
    return root


def _copy_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        copy = nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False,
            device="meta",
        )  # fmt: skip
    else:
        copy = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    copy.weight = nn.Parameter(dense_weight(layer).float().clone(), requires_grad=False)
    return copy
