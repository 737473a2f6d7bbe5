"""K adapters on one frozen UNet. One subject is K = 1; there is no other path.

Each adapter keeps its own parameters (its own rates, clipping, optimizer state and file); stacking them is one copy
of a few megabytes per step.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.adapter import UNFUSED, Adapter, FusedRows, create_adapter
from delora_sd.adapters.lowrank.factors import Factors, update_norm
from delora_sd.adapters.lowrank.layers import AdaptedLayer, AdaptedLinear, adapt_layer, flat_weight
from delora_sd.adapters.lowrank.methods import METHODS, make_factors
from delora_sd.adapters.lowrank.starts import START
from delora_sd.errors import UserError
from delora_sd.quantization import dense_weight, weight_dtype
from delora_sd.settings import AdapterConfig

ADAPTABLE = (nn.Linear, nn.Conv2d)


class AdapterPack(nn.Module):
    """Adapters of one method and rank over the same layers. It holds the adapters' tensors, not the frozen layers."""

    def __init__(self, layers: dict[str, AdaptedLayer], adapters: list[Adapter]):
        super().__init__()
        self.adapters = nn.ModuleList(adapters)
        self._layers = layers  # a plain dict: the frozen layers belong to the UNet
        self._joined: dict[int, tuple[tuple, Factors]] = {}

    def make_factors(self) -> None:
        """Gives every layer its factors (K, R, in) and (K, out, R), once per step, in a few kernels per shape.

        The factors of one call serve until the next: a frozen start's are written over, so backward comes before that.
        """
        for index, group in enumerate(self.adapters[0].groups):
            layer = self._layers[group.layers[0]]
            dtype = weight_dtype(layer.base)
            if START[0] in self.adapters[0].group_tensors(index) and isinstance(layer, AdaptedLinear):
                trained = self._group_factors(index, with_start=False)
                per_layer = _unstack(self._join_start(index, trained, dtype), dtype)
                trained_per_layer = _unstack(trained, dtype)
            else:
                per_layer = _unstack(self._group_factors(index), dtype)
                trained_per_layer = [None] * len(per_layer)
            for name, own, trained_own in zip(group.layers, per_layer, trained_per_layer, strict=True):
                self._layers[name].set_factors(own, trained_own)

    def _group_factors(self, index: int, *, with_start: bool = True) -> Factors:
        """Returns all terms of one group, or the trained ones alone, (layers, K, ...), fp32 and differentiable."""
        first = self.adapters[0]
        config, group = first.config, first.groups[index]
        named = [adapter.group_tensors(index) for adapter in self.adapters]
        names = [name for name in named[0] if with_start or name not in START]
        stacked = {name: _stack([tensors[name] for tensors in named]) for name in names}
        needs_weight = METHODS[config.method].needs_weight
        weight = flat_weight(self._layers[group.layers[0]].base).float() if needs_weight else None
        return make_factors(stacked, config, group.spec, weight)[0]

    @torch.no_grad()
    def _join_start(self, index: int, trained: Factors, dtype: torch.dtype) -> Factors:
        """Returns the trained terms and the frozen start after them, which is joined once and then left where it is."""
        starts = [adapter.group_tensors(index)[name] for adapter in self.adapters for name in START]
        made_from = (dtype, *((start.data_ptr(), start._version) for start in starts))
        if index not in self._joined or self._joined[index][0] != made_from:
            whole = self._group_factors(index)
            self._joined[index] = (made_from, Factors(whole.down.to(dtype), whole.up.to(dtype)))
        whole, rank = self._joined[index][1], trained.down.shape[-2]
        whole.down[..., :rank, :].copy_(trained.down)
        whole.up[..., :rank].copy_(trained.up)
        return whole

    def clear_factors(self) -> None:
        """The UNet computes as if no adapter were there."""
        for layer in self._layers.values():
            layer.set_factors(None)

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """Inside, the UNet serves adapter `index` alone: how previews are made."""
        with torch.no_grad():
            self.make_factors()
        for layer in self._layers.values():
            layer.set_factors(Factors(*(None if part is None else part[index : index + 1] for part in layer.factors)))
        try:
            yield
        finally:
            self.clear_factors()

    @torch.no_grad()
    def distances(self) -> list[dict[str, tuple[float, float]]]:
        """Returns, per adapter, {layer: (||dW||_F, ||dW||_F / ||W||_F)}: the Euclidean distance of Figs. 2, 3."""
        found: list[dict[str, tuple[float, float]]] = [{} for _ in self.adapters]
        for index, group in enumerate(self.adapters[0].groups):
            factors = self._group_factors(index)
            for position, name in enumerate(group.layers):
                weight = flat_weight(self._layers[name].base).float()
                one = Factors(*(None if part is None else part[position] for part in factors))
                for layers, distance in zip(found, update_norm(one, weight).tolist(), strict=True):
                    layers[name] = (distance, distance / max(weight.norm().item(), 1e-12))
        return found


def _stack(tensors: list[Tensor]) -> Tensor:
    """(layers, ...) of each adapter -> (layers, K, ...); one adapter alone is not copied."""
    return tensors[0].unsqueeze(1) if len(tensors) == 1 else torch.stack(tensors, dim=1)


def _unstack(factors: Factors, dtype: torch.dtype) -> list[Factors]:
    """Returns one (K, ...) pair per layer in the base's precision; DoRA's scale stays fp32."""
    scales = [None] * len(factors.down) if factors.scale is None else factors.scale.unbind(0)
    pairs = zip(factors.down.to(dtype).unbind(0), factors.up.to(dtype).unbind(0), scales, strict=True)
    return [Factors(*pair) for pair in pairs]


def attach_adapters(
    unet: nn.Module, configs: list[AdapterConfig], *, seeds: list[int], fused_rows: FusedRows = UNFUSED
) -> AdapterPack:
    """Freezes the UNet, swaps its target layers for adapted ones and returns the pack of fresh adapters.

    Raises:
        UserError: no layer matches `target_modules`, or a rank does not fit a layer.
    """
    unet.requires_grad_(False)
    targets = find_targets(unet, configs[0].target_modules)
    weights = {name: dense_weight(layer) for name, layer in targets.items()}
    adapters = [
        create_adapter(config, weights, seed=seed, fused_rows=fused_rows)
        for config, seed in zip(configs, seeds, strict=True)
    ]
    return attach(unet, adapters)


def attach(unet: nn.Module, adapters: list[Adapter]) -> AdapterPack:
    """Swaps in the adapted layers for adapters that exist already (loaded from files)."""
    layers = {}
    for name in adapters[0].specs():
        parent, _, child = name.rpartition(".")
        layers[name] = adapt_layer(unet.get_submodule(name))
        setattr(unet.get_submodule(parent), child, layers[name])
    device = next(iter(layers.values())).base.weight.device
    return AdapterPack(layers, [adapter.to(device) for adapter in adapters])


def detach(unet: nn.Module) -> None:
    """Puts the frozen layers back."""
    for name, module in list(unet.named_modules()):
        if isinstance(module, AdaptedLayer):
            parent, _, child = name.rpartition(".")
            setattr(unet.get_submodule(parent), child, module.base)


def find_targets(unet: nn.Module, target_modules: tuple[str, ...]) -> dict[str, nn.Module]:
    """Returns {dotted name: layer} of every layer whose name ends with a target, in the model's order.

    A name may be a layer in one kind of block and a list of layers in another (FLUX.2's `to_out`): lists are no layers.
    """
    found = {}
    for target in target_modules:
        matches = {n: m for n, m in unet.named_modules() if n == target or n.endswith(f".{target}")}
        if not matches:
            kinds = sorted({n.rsplit(".", 1)[-1] for n, m in unet.named_modules() if isinstance(m, ADAPTABLE)})
            raise UserError(
                f"adapter.target_modules: no layer ends with '{target}'; layers here end with {', '.join(kinds)}"
            )
        layers = {n: m for n, m in matches.items() if isinstance(m, ADAPTABLE)}
        if not layers:
            wrong = next(iter(matches))
            raise UserError(f"adapter.target_modules: '{wrong}' is no Linear or Conv2d layer; name the layer itself")
        found |= layers
    return {name: found[name] for name, _ in unet.named_modules() if name in found}
