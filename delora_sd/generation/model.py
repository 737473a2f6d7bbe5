"""A base model in memory, ready to draw; kept from one image set to the next when asked to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser, load_text, load_vae
from delora_sd.generation.requests import SamplingSettings
from delora_sd.generation.sampler import Sampler
from delora_sd.quantization import quantize_linears
from delora_sd.settings import ModelConfig
from delora_sd.stopwatch import time_of


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Every part of a base."""

    base: Base
    text: Any
    """Tokenizers and text encoders."""
    denoiser: nn.Module
    vae: nn.Module

    @time_of("conditioning")
    def sampler(self, texts: Sequence[str], sampling: SamplingSettings) -> Sampler:
        """Returns a sampler that knows these prompts; each is encoded once."""
        distinct = list(dict.fromkeys([*texts, sampling.negative_prompt]))
        with torch.no_grad():
            conditions = self.base.family.encode_prompts(distinct, self.text)
        return Sampler(
            base=self.base,
            denoiser=self.denoiser,
            vae=self.vae,
            conditions=dict(zip(distinct, conditions, strict=True)),
            sampling=sampling,
        )


def load_model(
    base: Base, *, device: torch.device, dtype: torch.dtype, quantization: str = "none", is_compiled: bool = False
) -> LoadedModel:
    """Returns the base's parts on the device."""
    text = load_text(base, device=device, dtype=dtype)
    denoiser = load_denoiser(base, device=device, dtype=dtype)
    if device.type == "cuda":
        denoiser = denoiser.to(memory_format=torch.channels_last)
    quantize_linears(denoiser, quantization)
    if is_compiled:
        denoiser.compile(dynamic=False)
    return LoadedModel(base=base, text=text, denoiser=denoiser, vae=load_vae(base, device=device, dtype=dtype))


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
