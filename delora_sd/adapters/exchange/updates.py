"""What an adapter on disk does to a UNet, whoever wrote it: {parameter name: W -> W' - W}."""

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path

from torch import Tensor, nn

from delora_sd.adapters import attach as delegated
from delora_sd.adapters.exchange.formats import CONFIG_FILE, OWN_TYPE, load_adapter, read_adapter_config
from delora_sd.adapters.exchange.plain_lora import PlainLayer, read_plain_lora
from delora_sd.adapters.lowrank.adapter import Adapter, layer_factors
from delora_sd.adapters.lowrank.factors import Factors, dense_update, row_norms
from delora_sd.adapters.lowrank.methods import METHODS, LayerSpec, Tensors
from delora_sd.adapters.lowrank.quantization import weight_shape
from delora_sd.adapters.peft import layout as peft_layout
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
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
    kind = read_adapter_config(path).get("peft_type")
    if kind == OWN_TYPE or kind in peft_layout.PEFT_TYPES:
        return _adapter_updates(load_adapter(path), unet, source=path)
    return delegated.load_updates(path, unet)


def find_adapter(path: Path) -> Path:
    """Returns the adapter's folder or file for a run folder, a checkpoint, an adapter folder or a plain LoRA file."""
    path = Path(path).expanduser()
    if path.is_file() or (path / CONFIG_FILE).exists():
        return path
    run = RunFolder(path)
    if run.is_finished():
        return run.adapter
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run folder, an adapter folder or a .safetensors file")
    if steps := run.checkpoint_steps():
        raise UserError(
            f"{path}: training has not finished (last checkpoint: step {steps[-1]}); run it again to resume"
        )
    read_adapter_config(path)
    raise AssertionError("read_adapter_config accepts no folder without its file")


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
    layers, text_encoder = read_plain_lora(path, [name for name, _ in unet.named_modules()])
    check_shapes({name: layer.weight_shape for name, layer in layers.items()}, unet, source=path)
    if text_encoder:
        warnings.warn(
            f"{path} also changes the text encoder ({len(text_encoder)} tensors); only the UNet's part is used",
            stacklevel=2,
        )
    return {f"{name}.weight": partial(_plain_update, layer) for name, layer in layers.items()}


def _plain_update(layer: PlainLayer, weight: Tensor) -> Tensor:
    flat = weight.flatten(1)
    down, up = layer.down.flatten(1).to(weight.device), layer.up.to(weight.device)
    scale = None if layer.magnitude is None else layer.magnitude.to(weight.device) / row_norms(down, up, flat)
    return dense_update(Factors(down, up, scale), flat).view_as(weight)


def check_shapes(shapes: dict[str, tuple[int, ...]], unet: nn.Module, *, source: Path) -> None:
    """Raises UserError naming the layers that this UNet lacks or has in another shape."""
    modules = dict(unet.named_modules())
    missing = [layer for layer in shapes if layer not in modules]
    if missing:
        raise UserError(f"{source} was made for another base: this UNet has no layer '{missing[0]}'")
    here = {layer: weight_shape(modules[layer]) for layer in shapes}
    differing = [layer for layer, shape in shapes.items() if here[layer] != tuple(shape)]
    if differing:
        named = "; ".join(f"{layer} is {shapes[layer]} there, {here[layer]} here" for layer in differing[:3])
        raise UserError(
            f"{source} was made for another base: {len(differing)} of {len(shapes)} layers differ in shape ({named})"
        )
