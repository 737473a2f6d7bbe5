"""An exponential moving average of one adapter, beside it and never in its way: what is trained does not know of it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from delora_sd.adapters.attach import Trainable
from delora_sd.adapters.exchange.stored.formats import restore_adapter, save_adapter
from delora_sd.adapters.lowrank.averaging import averaged_form
from delora_sd.errors import UserError
from delora_sd.settings import EmaConfig

EMA = "ema"
"""Its name in a run's averages, and its folder in a checkpoint."""

_WARMUP = 10.0
"""Of (1 + t) / (10 + t), as in TensorFlow's ExponentialMovingAverage with num_updates."""


def check_ema(config: EmaConfig) -> None:
    if not 0 <= config.decay < 1:
        raise UserError(f"training.ema.decay: {config.decay}; expected 0 (no average) to below 1, such as 0.99")


class Ema:
    """The average of an adapter's trained tensors: fp32, on their device."""

    def __init__(self, adapter: Trainable, config: EmaConfig):
        self._adapter, self._config = adapter, config
        self._values = [value.clone() for value in _forms(adapter)]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the adapter after `step` steps, the first being 1."""
        for average, value in zip(self._values, _forms(self._adapter), strict=True):
            average.lerp_(value, 1 - decay_at(self._config, step))

    def save(self, folder: Path, *, base: str) -> None:
        """Writes the average as an adapter folder, whole or not at all."""
        with self._in_place():
            save_adapter(self._adapter, folder, base=base)

    def restore(self, folder: Path) -> None:
        """Takes over a saved average, bit for bit: how training resumes. The adapter stays as it is."""
        with self._in_place():
            restore_adapter(self._adapter, folder)
            self._values = [parameter.detach().clone() for parameter in self._adapter.parameters()]

    @contextmanager
    def _in_place(self) -> Iterator[None]:
        """Inside, the adapter's parameters are the average's."""
        parameters = list(self._adapter.parameters())
        trained = [parameter.detach().clone() for parameter in parameters]
        try:
            _copy(self._values, parameters)
            yield
        finally:
            _copy(trained, parameters)


def decay_at(config: EmaConfig, step: int) -> float:
    """Returns the decay of the given step, the first being 1."""
    return min(config.decay, (1 + step) / (_WARMUP + step)) if config.warmup else config.decay


def _forms(adapter: Trainable) -> list[torch.Tensor]:
    """In the order of `parameters()`."""
    method = adapter.config.method
    return [averaged_form(method, name, parameter.detach()) for name, parameter in adapter.parameters_by_name()]


@torch.no_grad()
def _copy(values: Iterable[torch.Tensor], parameters: Iterable[torch.nn.Parameter]) -> None:
    for value, parameter in zip(values, parameters, strict=True):
        parameter.copy_(value)
