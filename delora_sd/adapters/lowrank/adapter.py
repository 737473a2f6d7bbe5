"""One adapter: its tensors for every adapted layer, stacked over layers of one shape.

Stacking makes the normalisation of a whole UNet a few kernels instead of a thousand (128 layers have five shapes).
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.factors import Factors
from delora_sd.adapters.lowrank.methods import (
    METHODS,
    LayerSpec,
    Tensors,
    make_factors,
    resolve_layer,
    start_layer,
    trained_names,
)
from delora_sd.random_streams import stream_generator
from delora_sd.settings import AdapterConfig

FusedRows = Mapping[str, tuple[int, ...]]
"""{layer: output rows of each logical slice} of a base's fused matrices"""

UNFUSED: FusedRows = MappingProxyType({})


@dataclass(frozen=True, kw_only=True)
class LayerGroup:
    """Layers whose tensors share one shape, in order; their factors are made together."""

    layers: tuple[str, ...]
    spec: LayerSpec
    """The first layer's; the others differ at most in their initial boundary."""


class Adapter(nn.Module):
    """The tensors of one adapter; `stacks[g][name]` has a leading axis over the layers of group g."""

    def __init__(self, config: AdapterConfig, specs: dict[str, LayerSpec], tensors: dict[str, Tensors]):
        super().__init__()
        self.config = config
        self._specs = specs
        self.groups = _group_layers(config, specs, tensors)
        self.stacks = nn.ModuleList()
        trained = trained_names(config)
        for group in self.groups:
            stack = nn.Module()
            for name in tensors[group.layers[0]]:
                value = torch.stack([tensors[layer][name] for layer in group.layers])
                if name in trained:
                    stack.register_parameter(name, nn.Parameter(value))
                else:
                    stack.register_buffer(name, value)
            self.stacks.append(stack)

    def group_tensors(self, index: int) -> Tensors:
        """Returns {name: (layers, ...)} of one group, parameters and frozen tensors."""
        stack = self.stacks[index]
        return dict(stack.named_parameters()) | dict(stack.named_buffers())

    def layer_tensors(self) -> dict[str, Tensors]:
        """Returns {layer: {name: tensor}}: what is saved. Views, detached."""
        layers = {}
        for index, group in enumerate(self.groups):
            stacked = self.group_tensors(index)
            for position, layer in enumerate(group.layers):
                layers[layer] = {name: value[position].detach() for name, value in stacked.items()}
        return layers

    @torch.no_grad()
    def copy_from(self, layers: dict[str, Tensors]) -> None:
        """Takes over saved tensors {layer: {name: tensor}}, bit for bit: how training resumes."""
        for index, group in enumerate(self.groups):
            for name, value in self.group_tensors(index).items():
                value.copy_(torch.stack([layers[layer][name] for layer in group.layers]))

    def specs(self) -> dict[str, LayerSpec]:
        """Returns {layer: its settings}, the initial boundary of each layer included."""
        return self._specs

    def parameters_by_name(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields (tensor name such as "A" or "boundary", parameter) in a fixed order: how rates are chosen."""
        for stack in self.stacks:
            yield from stack.named_parameters()

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.parameters())

    def boundaries(self) -> dict[str, float]:
        """Returns {layer: lambda}, of a fused layer the mean of its slices'; {} for methods without a boundary."""
        found: dict[str, float] = {}
        for index, group in enumerate(self.groups):
            tensors = self.group_tensors(index)
            if "boundary" in tensors:  # read from the device once per group, not once per layer
                boundary = tensors["boundary"].mean(-1) if group.spec.rows else tensors["boundary"]
                found |= zip(group.layers, boundary.tolist(), strict=True)
        return {layer: found[layer] for layer in self._specs if layer in found}


def create_adapter(
    config: AdapterConfig, weights: dict[str, Tensor], *, seed: int, fused_rows: FusedRows = UNFUSED
) -> Adapter:
    """Returns a fresh adapter for layers {name: frozen weight}; a layer's start depends on (seed, name) only.

    Made on the CPU in fp32, wherever the weights are: the same start on every device.
    """
    weights = {name: _known(weight) for name, weight in weights.items()}
    specs = {name: resolve_layer(name, config, weight, fused_rows.get(name, ())) for name, weight in weights.items()}
    tensors = {
        name: start_layer(
            specs[name], config, weight.detach().flatten(1).float().cpu(), stream_generator(f"{seed}/{name}")
        )
        for name, weight in weights.items()
    }
    return Adapter(config, specs, tensors)


def _known(weight: Tensor) -> Tensor:
    """Zeros for a weight that is only a shape (device "meta"): sizes can be counted without values."""
    return torch.zeros(()).expand(weight.shape) if weight.is_meta else weight


def layer_factors(config: AdapterConfig, spec: LayerSpec, tensors: Tensors, weight: Tensor | None = None) -> Factors:
    """Returns the exact factors of one layer, fp32; `weight` (out, in) only for methods that need it."""
    return make_factors(tensors, config, spec, None if weight is None else weight.float())[0]


def _group_layers(
    config: AdapterConfig, specs: dict[str, LayerSpec], tensors: dict[str, Tensors]
) -> tuple[LayerGroup, ...]:
    """Groups by shape; a method that multiplies by the frozen weight gets one group per layer."""
    alone = METHODS[config.method].needs_weight
    groups: dict[tuple, list[str]] = {}
    for layer, named in tensors.items():
        shape = tuple((name, tuple(value.shape)) for name, value in sorted(named.items()))
        key = (layer,) if alone else (specs[layer].shape, specs[layer].alpha, specs[layer].rows, shape)
        groups.setdefault(key, []).append(layer)
    return tuple(LayerGroup(layers=tuple(layers), spec=specs[layers[0]]) for layers in groups.values())
