"""A UNet with control encoders and adapters, and one pair of them as the training loop sees it: a single adapter."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor, nn

from delora_sd.adapters.attach import Attached, Trainable, attach_method
from delora_sd.adapters.exchange.stored.formats import restore_adapter, save_adapter
from delora_sd.diffusion.families.family import Conditions
from delora_sd.maps.encoder import CONTROL_FOLDER, ControlEncoder, HintPort, restore_encoder, save_encoder
from delora_sd.settings import AdapterConfig
from delora_sd.training.loop.objective import AdaptedDenoiser

CONTROL = "control"
"""The name of the encoder's parameters: how their learning rate is chosen."""


class ControlledAdapter(nn.Module):
    """An adapter and its control encoder: trained, clipped, saved and resumed together."""

    def __init__(self, config: AdapterConfig, adapter: Trainable | None, encoder: ControlEncoder, *, is_trained: bool):
        super().__init__()
        self.config = config
        self.adapter = adapter
        self.encoder = encoder.requires_grad_(is_trained)

    def parameters_by_name(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Yields the adapter's, then the encoder's where it trains."""
        if self.adapter is not None:
            yield from self.adapter.parameters_by_name()
        yield from ((CONTROL, parameter) for parameter in self.encoder.parameters() if parameter.requires_grad)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for _, parameter in self.parameters_by_name())

    def boundaries(self) -> dict[str, float]:
        return {} if self.adapter is None else self.adapter.boundaries()

    def save(self, folder: Path, *, base: str) -> None:
        """Writes the encoder beside the adapter's folder, the adapter last: where it is, both are."""
        save_encoder(self.encoder, folder.with_name(CONTROL_FOLDER))
        if self.adapter is not None:
            save_adapter(self.adapter, folder, base=base)

    def restore(self, folder: Path) -> None:
        """Takes over what `save` wrote, bit for bit."""
        restore_encoder(self.encoder, folder.with_name(CONTROL_FOLDER))
        if self.adapter is not None:
            restore_adapter(self.adapter, folder)


class NoAdapters(nn.Module):
    """An untouched UNet as a pack: what encoders alone are trained with."""

    def __init__(self, size: int):
        super().__init__()
        self.adapters = nn.ModuleList()
        self._size = size

    def make_factors(self) -> None:
        """Nothing to make."""

    def only(self, index: int) -> AbstractContextManager[None]:
        return nullcontext()

    def distances(self) -> list[dict[str, tuple[float, float]]]:
        return [{} for _ in range(self._size)]


class ControlledUNet(nn.Module):
    """The frozen UNet, its pack and one encoder per adapter: what accelerate prepares."""

    def __init__(
        self, unet: nn.Module, pack: nn.Module, predict: Callable[..., Tensor], encoders: list[ControlEncoder]
    ):
        super().__init__()
        self.adapted = AdaptedDenoiser(unet, pack, predict)
        self.encoders = nn.ModuleList(encoders)
        self._port = HintPort(unet)

    def forward(
        self,
        latents: Float[Tensor, "samples channels height width"],
        times: Shaped[Tensor, " samples"],
        conditions: Conditions,
        labels: UInt8[Tensor, "samples rows columns"],
    ) -> Tensor:
        """Every encoder sees the maps of its own equal share of the batch."""
        shares = zip(self.encoders, labels.chunk(len(self.encoders)), strict=True)
        self._port.hint = torch.cat([encoder(own) for encoder, own in shares])
        try:
            return self.adapted(latents, times, conditions)
        finally:
            self._port.hint = None


def attach_control(
    unet: nn.Module, configs: list[AdapterConfig], encoders: list[ControlEncoder], *, seeds: list[int], alone: bool
) -> Attached:
    """Puts fresh adapters on the UNet, which is frozen; none where the encoders train alone."""
    unet.requires_grad_(False)
    return NoAdapters(len(encoders)) if alone else attach_method(unet, configs, seeds=seeds)
