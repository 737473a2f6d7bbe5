"""What `full` and PEFT's methods share: one adapter whose tensors live in the UNet's layers, as a pack of one."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from delora_sd.settings import AdapterConfig


class AdapterInUNet(nn.Module):
    """Trained parameters of one UNet under their names there; it shares them with the UNet."""

    def __init__(self, config: AdapterConfig, named: Iterable[tuple[str, nn.Parameter]]):
        super().__init__()
        self.config = config
        named = list(named)
        self._names = [name for name, _ in named]
        self.weights = nn.ParameterList(parameter for _, parameter in named)

    def parameters_by_name(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from zip(self._names, self.weights, strict=True)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.weights)

    def boundaries(self) -> dict[str, float]:
        return {}


class PackOfOne(nn.Module):
    """Its adapter's layers compute their own update: nothing to make before a step, nothing to switch."""

    def __init__(self, adapter: AdapterInUNet):
        super().__init__()
        self.adapters = nn.ModuleList([adapter])

    def make_factors(self) -> None:
        pass

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        yield


def compute_in(unet: nn.Module, dtype: torch.dtype) -> None:
    """Lets parameters in fp32 meet a base in half precision: the forward pass runs under autocast to `dtype`."""
    if dtype != torch.float32:
        device = next(unet.parameters()).device
        unet.forward = torch.autocast(device.type, dtype=dtype)(unet.forward)
