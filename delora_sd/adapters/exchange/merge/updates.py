"""What an adapter on disk does to a UNet, whoever wrote it: {parameter name: W -> W' - W}."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from delora_sd.adapters import attach
from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer, read_plain_lora, warn_of_unused
from delora_sd.adapters.exchange.stored.formats import OWN_TYPE, load_adapter, read_adapter_config
from delora_sd.adapters.exchange.stored.inputs import find_adapter
from delora_sd.adapters.lowrank.adapter import Adapter, layer_factors
from delora_sd.adapters.lowrank.factors import MIN_NORM, Factors, dense_update, row_norms
from delora_sd.adapters.lowrank.methods import METHODS, LayerSpec, Tensors
from delora_sd.adapters.lowrank.pack import ADAPTABLE
from delora_sd.adapters.peft import layout as peft_layout
from delora_sd.adapters.peft.lora_config import beyond_plain_lora
from delora_sd.diffusion.families.table import family_of_layers
from delora_sd.errors import UserError
from delora_sd.quantization import weight_shape
from delora_sd.settings import AdapterConfig

Update = Callable[[Tensor], Tensor]
"""Frozen weight in fp32, in its own shape -> W' - W, dense, fp32, on the weight's device."""


def load_updates(path: Path, unet: nn.Module) -> dict[str, Update]:
    """Returns {parameter name: update} of a run folder, an adapter folder or a plain LoRA file.

    Raises:
        UserError: no adapter, a pickle, a broken file, or one made for another base: which shapes differ.
    """
    path = find_adapter(path)
    if path.is_file():
        return _plain_updates(path, unet)
    config = read_adapter_config(path)
    if has_own_formula(config):
        return _adapter_updates(load_adapter(path), unet, source=path)
    return attach.load_updates(path, unet)


def has_own_formula(config: dict[str, Any]) -> bool:
    """True when the folder's update is computed by us: our methods, and PEFT's DeLoRA, LoRA and DoRA without more."""
    kind = config.get("peft_type")
    if kind == "LORA" and beyond_plain_lora(config):
        return False
    return kind == OWN_TYPE or kind in peft_layout.PEFT_TYPES


def _adapter_updates(adapter: Adapter, unet: nn.Module, *, source: Path) -> dict[str, Update]:
    specs = adapter.specs()
    check_shapes({layer: spec.shape for layer, spec in specs.items()}, unet, source=source)
    return {
        f"{layer}.weight": partial(_adapter_update, adapter.config, specs[layer], tensors)
        for layer, tensors in adapter.layer_tensors().items()
    }


def _adapter_update(config: AdapterConfig, spec: LayerSpec, tensors: Tensors, weight: Tensor) -> Tensor:
    tensors = {name: value.to(weight.device) for name, value in tensors.items()}
    flat = weight.flatten(1)
    factors = layer_factors(config, spec, tensors, flat if METHODS[config.method].needs_weight else None)
    return dense_update(factors, flat).view_as(weight)


def _plain_updates(path: Path, unet: nn.Module) -> dict[str, Update]:
    here = {name: weight_shape(module) for name, module in unet.named_modules() if isinstance(module, ADAPTABLE)}
    layers, unused = read_plain_lora(path, here)
    layers = {name: _in_shape(layer, here[name]) for name, layer in layers.items()}
    check_shapes({name: layer.weight_shape for name, layer in layers.items()}, unet, source=path)
    warn_of_unused(path, unused)
    updates: dict[str, Update] = {f"{name}.weight": partial(_plain_update, layer) for name, layer in layers.items()}
    for name, layer in layers.items():
        if layer.bias is not None:
            if unet.get_submodule(name).bias is None:
                raise UserError(f"{path} adds a bias to {name}, which has none in this UNet")
            updates[f"{name}.bias"] = partial(_constant_update, layer.bias)
    return updates


def _in_shape(layer: PlainLayer, shape: tuple[int, ...]) -> PlainLayer:
    """Returns the layer with the factors of a 1 x 1 convolution as those of a Linear layer, or the other way round."""
    kernel = (*layer.down.shape[2:], *shape[2:])
    if len(shape) == layer.down.ndim or any(side != 1 for side in kernel):
        return layer
    return replace(layer, down=layer.down.reshape(*layer.down.shape[:2], *shape[2:]))


def _plain_update(layer: PlainLayer, weight: Tensor) -> Tensor:
    flat = weight.flatten(1)
    down, up = layer.down.flatten(1).to(weight.device), layer.up.to(weight.device)
    if layer.magnitude is None:
        return dense_update(Factors(down, up), flat).view_as(weight)
    magnitude = layer.magnitude.to(weight.device)
    if layer.is_along_inputs:
        changed = weight + (up @ down).view_as(weight)
        norms = changed.transpose(0, 1).flatten(1).norm(dim=1).clamp_min(MIN_NORM)
        return changed * (magnitude / norms).view(1, -1, *(1 for _ in weight.shape[2:])) - weight
    return dense_update(Factors(down, up, magnitude / row_norms(down, up, flat)), flat).view_as(weight)


def _constant_update(change: Tensor, parameter: Tensor) -> Tensor:
    return change.to(parameter.device).view_as(parameter)


def check_shapes(shapes: dict[str, tuple[int, ...]], unet: nn.Module, *, source: Path) -> None:
    """Raises UserError naming the layers that this base lacks or has in another shape, and the families, if two."""
    here = {name: weight_shape(module) for name, module in unet.named_modules() if isinstance(module, ADAPTABLE)}
    missing = [layer for layer in shapes if layer not in here]
    differing = [layer for layer, shape in shapes.items() if layer in here and here[layer] != tuple(shape)]
    if not (missing or differing):
        return
    theirs, ours = family_of_layers(shapes), family_of_layers(here)
    found = [] if theirs is ours else [f"an adapter of {theirs.title} does not fit {ours.title}"]
    found += [f"this base has no layer '{missing[0]}'"] if missing else []
    if differing:
        named = "; ".join(f"{layer} is {tuple(shapes[layer])} there, {here[layer]} here" for layer in differing[:3])
        found.append(f"{len(differing)} of {len(shapes)} layers differ in shape ({named})")
    raise UserError(f"{source} was made for another base: {', '.join(found)}")
