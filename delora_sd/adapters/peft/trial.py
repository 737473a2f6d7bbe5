"""Does a PEFT configuration work from end to end? Tried on small copies of a UNet's layers before anything loads."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.pack import ADAPTABLE
from delora_sd.adapters.peft.bridge import inject, save_state, selects
from delora_sd.adapters.peft.updates import load_peft_updates
from delora_sd.errors import UserError

if TYPE_CHECKING:
    from peft import PeftConfig

NEEDS_DATA = ("eva", "corda", "lora_ga")
"""Starts that are computed from a pass over data, which training here does not make."""

_TOLERANCE = 1e-3
"""Of the change of the output: what merging in fp32 may round."""

_KICK = 0.05
"""How far the trial moves every trained number: no start hides a fault by being zero."""


def check_works(config: "PeftConfig", unet: nn.Module, *, source: str) -> None:
    """Raises UserError unless what PEFT trains can be put in, trained, saved, loaded again and merged.

    Tried on one layer of every shape that the configuration selects; the UNet may be on device "meta".
    """
    start = getattr(config, "init_lora_weights", None)
    if str(start).lower() in NEEDS_DATA:
        raise UserError(f"{source}: init_lora_weights={start} needs a pass over data, which is not made here")
    layers = _one_of_each_shape(config, unet)
    if not layers:
        raise UserError(f"{source}: {_nothing_selected(config, unet)}")
    with torch.random.fork_rng(devices=[]), tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        _try(config, layers, Path(folder) / "trial", source)


def _try(config: "PeftConfig", layers: dict[str, nn.Module], folder: Path, source: str) -> None:
    base, trained = _tree(layers), _tree(layers)
    model = _explained(lambda: inject(trained, config, source=source), source, "put in")
    trainable = [(name, value) for name, value in model.named_parameters() if value.requires_grad]
    if not trainable:
        raise UserError(f"{source}: this PEFT configuration trains nothing on the UNet")
    _explained(lambda: _answers(trained, layers, with_gradient=True).square().mean().backward(), source, "trained")
    with torch.no_grad():
        for _, value in trainable:
            value.add_(_KICK * torch.randn_like(value))
    expected = _explained(lambda: _answers(trained, layers), source, "run")
    _explained(lambda: save_state(model, folder, base="", method="peft"), source, "saved")
    before = _answers(base, layers)
    updates = _explained(lambda: load_peft_updates(folder, base), source, "loaded again")
    with torch.no_grad():
        for name, update in updates.items():
            parameter = base.get_parameter(name)
            parameter.add_(_explained(lambda u=update, p=parameter: u(p.clone()), source, "merged into a weight"))
    lost, change = (expected - _answers(base, layers)).norm(), (expected - before).norm()
    if not lost <= _TOLERANCE * change + 1e-5 * expected.norm():
        share = f"{100 * lost / change.clamp_min(1e-30):.0f}%"
        raise UserError(f"{source}: what PEFT merges is not what it trains ({share} of the change is lost)")


def _explained(step: Callable, source: str, verb: str):
    try:
        return step()
    except UserError as error:
        reason = str(error)
        raise UserError(reason if reason.startswith(source) else f"{source}: {reason.partition(': ')[2]}") from None
    except Exception as error:  # every method fails in its own way
        reason = str(error).strip().split("\n")[0][:200] or type(error).__name__
        raise UserError(f"{source}: this PEFT configuration cannot be {verb} here: {reason}") from None


def _one_of_each_shape(config: "PeftConfig", unet: nn.Module) -> dict[str, nn.Module]:
    """Returns {name: a layer of random weights like it}, the first of every kind, shape and bias."""
    found = {}
    for name, module in unet.named_modules():
        if isinstance(module, ADAPTABLE) and selects(config, name):
            key = (type(module), tuple(module.weight.shape), module.bias is None)
            found.setdefault(key, (name, module))
    return {name: _random_copy(module) for name, module in found.values()}


def _random_copy(layer: nn.Module) -> nn.Module:
    has_bias = layer.bias is not None
    if isinstance(layer, nn.Conv2d):
        return nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=has_bias
        )
    return nn.Linear(layer.in_features, layer.out_features, bias=has_bias)


def _tree(layers: dict[str, nn.Module]) -> nn.Module:
    """Returns a tree of modules with copies of the layers at their names."""
    root = nn.Module()
    for name, layer in layers.items():
        *path, last = name.split(".")
        parent = root
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        copy = _random_copy(layer)
        copy.load_state_dict(layer.state_dict())
        parent.add_module(last, copy.requires_grad_(False))
    return root


def _answers(model: nn.Module, layers: dict[str, nn.Module], *, with_gradient: bool = False) -> Tensor:
    """Returns what all layers answer to a fixed input each, in one vector; nothing is dropped."""
    model.eval()
    generator = torch.Generator().manual_seed(1)
    answers = []
    with torch.set_grad_enabled(with_gradient):
        for name, layer in layers.items():
            is_conv = isinstance(layer, nn.Conv2d)
            shape = (1, layer.in_channels, 4, 4) if is_conv else (1, 3, layer.in_features)
            answers.append(model.get_submodule(name)(torch.randn(shape, generator=generator)).flatten())
    return torch.cat(answers)


def _nothing_selected(config: "PeftConfig", unet: nn.Module) -> str:
    other = [module for name, module in unet.named_modules() if selects(config, name)]
    if other:
        return f"it selects {type(other[0]).__name__} layers; only Linear and Conv2d layers are adapted here"
    return "its target_modules select no layer of the UNet"
