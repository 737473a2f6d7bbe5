"""A base model in memory, ready to draw; kept from one image set to the next when asked to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from delora_sd.diffusion.cache import encode_prompts
from delora_sd.diffusion.noise_schedule import NoiseSchedule
from delora_sd.diffusion.parts import Base, find_base, load_text_encoder, load_unet, load_vae
from delora_sd.diffusion.quantization import quantize_linears
from delora_sd.generation.requests import SamplingSettings
from delora_sd.generation.sampler import Sampler
from delora_sd.settings import ModelConfig

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


@dataclass(frozen=True, kw_only=True)
class LoadedModel:
    """Every part of a base."""

    tokenizer: "CLIPTokenizer"
    text_encoder: "CLIPTextModel"
    unet: "UNet2DConditionModel"
    vae: "AutoencoderKL"
    schedule: NoiseSchedule

    def sampler(self, texts: Sequence[str], sampling: SamplingSettings) -> Sampler:
        """Returns a sampler that knows these prompts; each is encoded once."""
        distinct = list(dict.fromkeys([*texts, sampling.negative_prompt]))
        embeddings = encode_prompts(distinct, self.tokenizer, self.text_encoder)
        return Sampler(
            unet=self.unet,
            vae=self.vae,
            schedule=self.schedule,
            embeddings=dict(zip(distinct, embeddings, strict=True)),
            sampling=sampling,
        )


def load_model(
    base: Base, *, device: torch.device, dtype: torch.dtype, quantization: str = "none", is_compiled: bool = False
) -> LoadedModel:
    """Returns the base's parts on the device."""
    tokenizer, text_encoder = load_text_encoder(base, device=device, dtype=dtype)
    unet = load_unet(base, device=device, dtype=dtype)
    if device.type == "cuda":
        unet = unet.to(memory_format=torch.channels_last)
    quantize_linears(unet, quantization)
    if is_compiled:
        unet.compile(dynamic=False)
    return LoadedModel(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        unet=unet,
        vae=load_vae(base, device=device, dtype=dtype),
        schedule=base.schedule,
    )


class ModelKeeper:
    """Keeps the model used last in memory: the image sets of many adapters on one base load, hash and compile it once.

    Whoever holds the keeper trusts that the model's files do not change meanwhile.
    """

    def __init__(self) -> None:
        self._bases: dict[ModelConfig, Base] = {}
        self._key: tuple | None = None
        self._model: LoadedModel | None = None

    def find(self, model: ModelConfig) -> Base:
        if model not in self._bases:
            self._bases[model] = find_base(model)
        return self._bases[model]

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
