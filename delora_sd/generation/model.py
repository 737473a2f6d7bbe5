"""A base model in memory, ready to draw; kept from one image set to the next when asked to."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import nn

from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base, Condition
from delora_sd.diffusion.parts import load_denoiser, load_text, load_vae, text_bytes
from delora_sd.generation.requests import SamplingSettings
from delora_sd.generation.sampler import Sampler
from delora_sd.quantization import quantize_linears
from delora_sd.settings import ModelConfig
from delora_sd.stopwatch import time_of

KEPT_TEXT_BYTES = 1_000_000_000
"""Text encoders up to this size stay beside the denoiser, for the next prompts; larger ones are loaded again."""

CHANNELS_LAST = ("cpu", "cuda")
"""Devices whose convolutions are faster with a place's channels beside each other: by 15% of drawing on a CPU. Images
move by at most one of 255 levels."""


class LoadedModel:
    """A base whose parts come when they are needed: the text encoders first, and large ones never with the denoiser."""

    def __init__(
        self,
        base: Base,
        *,
        device: torch.device,
        dtype: torch.dtype,
        quantization: str,
        is_compiled: bool,
    ):
        self.base = base
        self._device, self._dtype = device, dtype
        self._quantization, self._is_compiled = quantization, is_compiled
        self._text: Any = None

    @time_of("conditioning")
    def sampler(self, texts: Sequence[str], sampling: SamplingSettings) -> Sampler:
        """Returns a sampler that knows these prompts; each is encoded once."""
        distinct = list(dict.fromkeys([*texts, sampling.negative_prompt]))
        conditions = dict(zip(distinct, self._encode(distinct), strict=True))
        return Sampler(base=self.base, denoiser=self.denoiser, vae=self.vae, conditions=conditions, sampling=sampling)

    @torch.no_grad()
    def _encode(self, texts: list[str]) -> list[Condition]:
        with time_of("loading"):
            text = self._text or load_text(self.base, device=self._device, dtype=self._dtype)
        self._text = text if text_bytes(text) <= KEPT_TEXT_BYTES else None
        return self.base.family.encode_prompts(texts, text)

    @cached_property
    @time_of("loading")
    def denoiser(self) -> nn.Module:
        denoiser = load_denoiser(self.base, device=self._device, dtype=self._dtype)
        if self._device.type in CHANNELS_LAST:
            denoiser = denoiser.to(memory_format=torch.channels_last)
        quantize_linears(denoiser, self._quantization)
        if self._is_compiled:
            denoiser.compile(dynamic=False)
        return denoiser

    @cached_property
    @time_of("loading")
    def vae(self) -> nn.Module:
        vae = load_vae(self.base, device=self._device, dtype=self._dtype)
        return vae.to(memory_format=torch.channels_last) if self._device.type in CHANNELS_LAST else vae


def load_model(
    base: Base, *, device: torch.device, dtype: torch.dtype, quantization: str = "none", is_compiled: bool = False
) -> LoadedModel:
    """Returns the base, ready to draw on the device; its parts load when the first prompts are known."""
    return LoadedModel(base, device=device, dtype=dtype, quantization=quantization, is_compiled=is_compiled)


class ModelKeeper:
    """Keeps the model used last in memory: the image sets of many adapters on one base load, hash and compile it once.

    Whoever holds the keeper trusts that the model's files do not change meanwhile.
    """

    def __init__(self) -> None:
        self._bases: dict[ModelConfig, Base] = {}
        self._key: tuple | None = None
        self._model: LoadedModel | None = None

    @time_of("loading")
    def find(self, model: ModelConfig) -> Base:
        if model not in self._bases:
            self._bases[model] = find_base(model)
        return self._bases[model]

    @time_of("loading")
    def load(
        self, base: Base, *, device: torch.device, dtype: torch.dtype, quantization: str, is_compiled: bool
    ) -> LoadedModel:
        key = (base.fingerprint, device, dtype, quantization, is_compiled)
        if key != self._key:
            self._key = self._model = None  # before loading the next: two may not fit
            self._model = load_model(
                base, device=device, dtype=dtype, quantization=quantization, is_compiled=is_compiled
            )
            self._key = key
        return self._model
