"""What any PEFT folder does to a UNet's weights, through PEFT's own merge of each layer."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.pack import ADAPTABLE
from delora_sd.adapters.peft.bridge import (
    base_changes,
    build_config,
    frozen_parameters,
    inject,
    load_state,
    parameter_change,
    selects,
    tuner_layers,
)
from delora_sd.adapters.peft.layout import CONFIG_FILE, PEFT_FILE, PREFIX
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json
from delora_sd.files.tensors import read_tensors
from delora_sd.quantization import dense_weight


def load_peft_updates(folder: Path, unet: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns {parameter name: W -> W' - W} of any PEFT folder, through PEFT's own merge of each layer.

    Weights and biases; a start that takes something out of the frozen weights does so here as it does in PEFT.

    Raises:
        UserError: an adapter for another base or of layers that we do not adapt, or one that PEFT cannot merge.
    """
    tensors, _ = read_tensors(folder / PEFT_FILE)
    config = build_config(read_json(folder / CONFIG_FILE), source=folder / CONFIG_FILE)
    _check_layers(tensors, unet, source=folder)
    names = [name for name, module in unet.named_modules() if isinstance(module, ADAPTABLE) and selects(config, name)]
    skeleton = _skeleton(unet, names)
    before = frozen_parameters(skeleton, config)
    with torch.random.fork_rng(devices=[]):  # a start is drawn and then overwritten
        model = inject(skeleton, config, source=str(folder))
    load_state(model, folder)
    starts = base_changes(model, before)
    layers = {name: layer.eval() for name, layer in tuner_layers(model)}
    _check_mergeable(next(iter(layers.values()), None), source=folder)
    return {
        f"{name}.{parameter}": partial(_change, layer, parameter, starts.get(f"{name}.{parameter}"))
        for name, layer in layers.items()
        for parameter in _changed(layer)
    }


def _change(layer: Any, name: str, start: Tensor | None, value: Tensor) -> Tensor:
    return parameter_change(layer, name, value, start)


def _changed(layer: Any) -> list[str]:
    """Returns weight, and bias where the merge changes it: IA3 and RoAd scale and turn outputs, biases included."""
    bias = layer.get_base_layer().bias
    is_changed = bias is not None and bool(parameter_change(layer, "bias", bias.data.float()).any())
    return ["weight", "bias"] if is_changed else ["weight"]


def _check_mergeable(layer: Any, *, source: Path) -> None:
    if layer is None:
        raise UserError(f"{source} was made for another base: none of this UNet's layers is among its target_modules")
    try:
        parameter_change(layer, "weight", layer.get_base_layer().weight.data)
    except Exception as error:  # every method says in its own way that it cannot be merged
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise UserError(f"{source}: PEFT cannot merge this adapter into a weight: {reason}") from None


def _check_layers(tensors: dict[str, Tensor], unet: nn.Module, *, source: Path) -> None:
    """Raises UserError for tensors of a layer that the UNet lacks, or that is neither Linear nor Conv2d.

    Tensors without the prefix of a model (VeRA's, VB-LoRA's) are shared by all layers.
    """
    modules = dict(unet.named_modules())
    for key in tensors:
        parts = key.removeprefix(PREFIX).split(".")
        own = [name for count in range(len(parts), 0, -1) if (name := ".".join(parts[:count])) in modules]
        if not key.startswith(PREFIX) or (own and isinstance(modules[own[0]], ADAPTABLE)):
            continue
        if own and not any(True for _ in modules[own[0]].children()):
            kind = type(modules[own[0]]).__name__
            raise UserError(f"{source} changes {own[0]}, a {kind}; only Linear and Conv2d layers are adapted here")
        raise UserError(f"{source} was made for another base: this base has no layer of '{key}'")


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
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding,
            bias=layer.bias is not None, device="meta",
        )  # fmt: skip
    else:
        copy = nn.Linear(layer.in_features, layer.out_features, bias=layer.bias is not None, device="meta")
    copy.weight = nn.Parameter(dense_weight(layer).float().clone(), requires_grad=False)
    if layer.bias is not None:
        copy.bias = nn.Parameter(layer.bias.detach().float().clone(), requires_grad=False)
    return copy
