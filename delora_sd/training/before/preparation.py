"""Before the loop: photos, class images and captions become cached latents and embeddings; then the encoders leave."""

import gc
from pathlib import Path

import torch
from torch import Tensor

from delora_sd.data.photos import Square, load_square, stack_squares
from delora_sd.data.prompts import class_prompt
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.cache import LatentStats, embed_texts, encode_photos
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_vae
from delora_sd.errors import UserError
from delora_sd.generation.class_images import ensure_class_images
from delora_sd.settings import TrainConfig
from delora_sd.stopwatch import time_of
from delora_sd.training.before.plan import Plan
from delora_sd.training.loop.member import CellData, Member


@time_of("caching")
def prepare_data(plan: Plan) -> None:
    """Gives every member its cached inputs; subjects and class words that repeat are encoded once."""
    device, members = plan.accelerator.device, plan.members
    texts = {text for member in members for text in (*member.prompts, _class_caption(member))}
    class_files = {member: _class_files(member.config, member.subject, plan.base) for member in members}
    captions = embed_texts(plan.base, sorted(texts), device=device, dtype=plan.dtype)
    photo_sets = {member.subject.photos for member in members} | {files for files in class_files.values() if files}
    latents = _encode(sorted(photo_sets), plan, device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for member in members:
        files = class_files[member]
        member.data = CellData(
            photos=latents[member.subject.photos],
            captions=tuple(captions[text] for text in member.prompts),
            class_images=latents[files] if files else None,
            class_caption=captions[_class_caption(member)] if files else None,
            photo_weights=_photo_weights(member),
        )


def _photo_weights(member: Member) -> Tensor | None:
    """1 in the subject, `training.outside_weight` around it, between the two where a cell holds both; (n, 1, h, w)."""
    if member.inside is None:
        return None
    return (member.inside + member.config.training.outside_weight * (1 - member.inside)).unsqueeze(1)


def _class_files(config: TrainConfig, subject: Subject, base: Base) -> tuple[Path, ...]:
    """The class images' files, () without prior preservation."""
    if config.training.prior_weight == 0:
        return ()
    num_images = config.training.num_class_images
    folder = ensure_class_images(base, config.model, config.data, class_word=subject.class_word, num_images=num_images)
    return tuple(sorted(folder.glob("[!.]*.png"))[:num_images])


def _class_caption(member: Member) -> str:
    return class_prompt(member.config.data.class_template, class_word=member.subject.class_word)


def _encode(
    photo_sets: list[tuple[Path, ...]], plan: Plan, device: torch.device
) -> dict[tuple[Path, ...], LatentStats]:
    vae = load_vae(plan.base, device=device, dtype=plan.dtype)
    encoded = {}
    for files in photo_sets:
        squares = [plan.photos.get(file) or _load_class_image(file, plan.size_px) for file in files]
        images, sizes = stack_squares(squares)
        encoded[files] = encode_photos(images, vae, plan.base.family, sizes)
    plan.photos.clear()
    return encoded


def _load_class_image(file: Path, size_px: int) -> Square:
    try:
        return load_square(file, size_px)
    except UserError as error:
        raise UserError(f"{error}; it is a class image: delete it, the same command draws it again") from None
