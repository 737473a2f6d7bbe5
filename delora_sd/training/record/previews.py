"""Preview images of an adapter while it trains: the denoiser in memory, that adapter alone, a VAE when needed."""

from collections.abc import Callable

import torch
from torch import nn

from delora_sd.adapters.attach import Attached
from delora_sd.data.prompts import render_prompt
from delora_sd.diffusion.cache import embed_texts
from delora_sd.diffusion.parts import load_vae
from delora_sd.generation.images import write_image
from delora_sd.generation.requests import SamplingSettings, slug
from delora_sd.generation.sampler import Sampler, sample_images
from delora_sd.training.before.plan import Plan
from delora_sd.training.loop.member import Member

PREVIEW_SEED = 0
"""The same noise at every step, so that previews show the training and not the dice."""


def preview_renderer(plan: Plan, denoiser: nn.Module, pack: Attached) -> Callable[[Member, int], None]:
    """Returns (member, step) -> writes `previews/step-NNNNNN-NN-slug.png`. Captions are embedded here, once."""
    device, dtype, base = plan.accelerator.device, plan.dtype, plan.base
    texts = {member: _preview_texts(member) for member in plan.members if member.config.preview.every}
    conditions = {}
    if texts:
        every = [text for own in texts.values() for text in own]
        negative = _sampling(plan.members[0], plan.size_px).negative_prompt
        conditions = embed_texts(base, [*every, negative], device=device, dtype=dtype)

    def render(member: Member, step: int) -> None:
        sampler = Sampler(
            base=base,
            denoiser=denoiser,
            vae=load_vae(base, device=device, dtype=dtype),
            conditions=conditions,
            sampling=_sampling(member, plan.size_px),
        )
        own = texts[member]
        with torch.no_grad(), pack.only(member.position):
            images = sample_images(sampler, own, [PREVIEW_SEED] * len(own))
        for number, (text, image) in enumerate(zip(own, images, strict=True)):
            file = member.run.previews / f"step-{step:06d}-{number:02d}-{slug(text)}.png"
            record = {"prompt": text, "seed": PREVIEW_SEED, "step": step, "random_weights": base.has_random_weights}
            write_image(file, image, record)

    return render


def _preview_texts(member: Member) -> list[str]:
    identifier, class_word = member.config.data.identifier, member.subject.class_word
    prompts = member.config.preview.prompts
    return [render_prompt(prompt, identifier=identifier, class_word=class_word) for prompt in prompts]


def _sampling(member: Member, size_px: int) -> SamplingSettings:
    preview = member.config.preview
    return SamplingSettings(
        num_inference_steps=preview.num_inference_steps, guidance=preview.guidance, negative_prompt="", size_px=size_px
    )
