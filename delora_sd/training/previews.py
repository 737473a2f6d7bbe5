"""Preview pictures of an adapter while it trains: the UNet in memory, that adapter alone, a VAE while it is needed."""

from collections.abc import Callable

import torch
from torch import nn

from delora_sd.data.prompts import render_prompt
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.parts import load_vae
from delora_sd.generation.pictures import write_picture
from delora_sd.generation.requests import SamplingSettings, slug
from delora_sd.generation.sampler import Sampler, embed_texts, sample_images
from delora_sd.settings import TrainConfig
from delora_sd.training.plan import Plan

PREVIEW_SEED = 0
"""The same noise at every step, so that previews show the training and not the dice."""


def preview_renderer(plan: Plan, unet: nn.Module, pack: nn.Module) -> Callable[[int, int], None]:
    """Returns (adapter index, step) -> writes `previews/step-NNNNNN-NN-slug.png`. Captions are embedded here, once."""
    texts = [_preview_texts(config, subject) for config, subject in zip(plan.configs, plan.subjects, strict=True)]
    settings = [_sampling(config, plan.size_px) for config in plan.configs]
    device, dtype, base = plan.accelerator.device, plan.dtype, plan.base
    embeddings = {}
    if any(config.preview.every for config in plan.configs):
        distinct = list(dict.fromkeys(text for own in texts for text in own))
        embeddings = embed_texts(base, distinct, settings[0], device=device, dtype=dtype)

    def render(index: int, step: int) -> None:
        sampler = Sampler(
            unet=unet,
            vae=load_vae(base, device=device, dtype=dtype),
            schedule=base.schedule,
            embeddings=embeddings,
            sampling=settings[index],
        )
        own = texts[index]
        with torch.no_grad(), pack.only(index):
            pictures = sample_images(sampler, own, [PREVIEW_SEED] * len(own))
        for number, (text, picture) in enumerate(zip(own, pictures, strict=True)):
            file = plan.runs[index].previews / f"step-{step:06d}-{number:02d}-{slug(text)}.png"
            record = {"prompt": text, "seed": PREVIEW_SEED, "step": step, "random_weights": base.has_random_weights}
            write_picture(file, picture, record)

    return render


def _preview_texts(config: TrainConfig, subject: Subject) -> list[str]:
    identifier, class_word = config.data.identifier, subject.class_word
    return [render_prompt(prompt, identifier=identifier, class_word=class_word) for prompt in config.preview.prompts]


def _sampling(config: TrainConfig, size_px: int) -> SamplingSettings:
    preview = config.preview
    return SamplingSettings(
        num_inference_steps=preview.num_inference_steps, guidance=preview.guidance, negative_prompt="", size_px=size_px
    )
