"""A method of the house on a language model: the adapter, the classifier beside it, and all of it merged."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from delora_sd.adapters.attach import Attached, attach_method
from delora_sd.adapters.lowrank.factors import dense_update
from delora_sd.adapters.lowrank.layers import AdaptedLinear
from delora_sd.adapters.peft.methods import PeftAdapter
from delora_sd.errors import UserError
from delora_sd.language.models.families import target_names
from delora_sd.quantization import dense_weight
from delora_sd.settings import AdapterConfig

PACK = "adapter_pack"
"""The model's attribute under which its adapters are, so that whoever asks for its parameters finds them."""


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """A frozen language model with one adapter on it and, where it classifies, a head that is trained beside it."""

    model: nn.Module
    pack: Attached
    head: tuple[str, ...]
    """Names of the head's parameters in the model; () of a model that continues text, and where all of it trains."""
    hook: RemovableHandle
    """Makes the factors anew before every pass."""

    def trained(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields (name, parameter) of all that training changes: `adapter.0.A`, `head.classifier.dense.weight`."""
        for index, (name, parameter) in enumerate(self.pack.adapters[0].parameters_by_name()):
            yield f"adapter.{index}.{name}", parameter
        for name in self.head:
            yield f"head.{name}", self.model.get_parameter(name)


def attach_language(model: nn.Module, config: AdapterConfig, *, seed: int, dropout: float = 0.0) -> Adapted:
    """Freezes the model but for its head, puts a fresh adapter on it and makes its factors anew for every pass.

    Raises:
        UserError: layers the model lacks, settings that do not fit them, dropout for a method that PEFT computes.
    """
    config = replace(config, target_modules=target_names(model.config, config.target_modules))
    pack = attach_method(model, [config], seeds=[seed])
    _set_dropout(model, config.method, dropout)
    head = () if config.method == "full" else _head_names(model)
    for name in head:
        model.get_parameter(name).requires_grad_(True)
    model.add_module(PACK, pack)
    hook = model.register_forward_pre_hook(lambda module, inputs: pack.make_factors())
    return Adapted(model=model, pack=pack, head=head, hook=hook)


@torch.no_grad()
def merge(adapted: Adapted) -> nn.Module:
    """Returns the model with W' in place of every adapted layer; nothing of the adapter is left on it.

    PEFT's methods merge themselves; what `full` trained is the model.
    """
    model, pack = adapted.model, adapted.pack
    pack.make_factors()
    for name, layer in list(model.named_modules()):
        if isinstance(layer, AdaptedLinear):
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, _merged(layer))
    if isinstance(pack.adapters[0], PeftAdapter):
        pack.adapters[0].model.merge_and_unload()
    delattr(model, PACK)
    adapted.hook.remove()
    return model


def _merged(layer: AdaptedLinear) -> nn.Module:
    weight = dense_weight(layer.base).float()
    dense = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    one = type(layer.factors)(*(None if part is None else part[0].float() for part in layer.factors))
    dense.weight = nn.Parameter((weight + dense_update(one, weight)).to(dense_weight(layer.base).dtype))
    dense.bias = layer.base.bias
    return dense.requires_grad_(False)


def _set_dropout(model: nn.Module, method: str, dropout: float) -> None:
    if not 0 <= dropout < 1:
        raise UserError(f"tuning.dropout: {dropout}; expected a share from 0 to below 1")
    layers = [module for module in model.modules() if isinstance(module, AdaptedLinear)]
    if dropout and not layers:
        raise UserError(f"tuning.dropout: {method} has none here; use tuning.dropout=0 or, with peft, its own setting")
    for layer in layers:
        layer.dropout = dropout
        layer.train(layer.base.training)  # a new module trains; one on a model that answers must not


def _head_names(model: nn.Module) -> tuple[str, ...]:
    """Returns the parameters outside the pretrained body; none where the model has no labels to tell apart."""
    if not type(model).__name__.endswith("ForSequenceClassification"):
        return ()
    return tuple(name for name, _ in model.named_parameters() if not name.startswith(f"{model.base_model_prefix}."))
