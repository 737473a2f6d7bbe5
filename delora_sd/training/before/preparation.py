"""Before the loop: photos, class images and captions become cached latents and embeddings; then the encoders leave."""

import gc
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor

from delora_sd.data.buckets import Shape, load_shape, photos_by_shape
from delora_sd.data.photos import Square, stack_squares
from delora_sd.data.prompts import class_prompt
from delora_sd.diffusion.cache import LatentStats, embed_texts, encode_photos
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_vae
from delora_sd.errors import UserError
from delora_sd.generation.class_images import ensure_class_images
from delora_sd.stopwatch import time_of
from delora_sd.training.before.plan import Plan
from delora_sd.training.loop.member import CellData, Member


@time_of("caching")
def prepare_data(plan: Plan) -> None:
    """Gives every member its cached inputs; subjects and class words that repeat are encoded once."""
    device, members = plan.accelerator.device, plan.members
    texts = {text for member in members for text in (*member.prompts, _class_caption(member))}
    files = {member: _files(member, plan) for member in members}
    captions = embed_texts(plan.base, sorted(texts), device=device, dtype=plan.dtype)
    image_sets = {each for own in files.values() for part in own for each in (part.photos, part.class_images)}
    latents = _encode(sorted((each for each in image_sets if each.files), key=str), plan, device)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    for member in members:
        parts = [
            CellData(
                photos=latents[part.photos],
                captions=tuple(captions[text] for text in part.prompts),
                class_images=latents.get(part.class_images),
                class_caption=captions[_class_caption(member)] if part.class_images.files else None,
                photo_weights=_photo_weights(member),
            )
            for part in files[member]
        ]
        member.data = replace(parts[0], buckets=tuple(parts)) if member.config.data.buckets else parts[0]


@dataclass(frozen=True)
class _Images:
    """Files that are encoded alike."""

    files: tuple[Path, ...]
    shape: Shape


@dataclass(frozen=True, kw_only=True)
class _Part:
    """A member's photos of one shape, and its class images of the same."""

    photos: _Images
    prompts: tuple[str, ...]
    class_images: _Images


def _files(member: Member, plan: Plan) -> list[_Part]:
    """Returns the member's files: squares in one part, else a part for each shape, with its share of class images."""
    photos, prompts, base = member.subject.photos, member.prompts, plan.base
    square = (plan.size_px, plan.size_px)
    if not member.config.data.buckets:
        class_images = _Images(_class_files(member, base, member.config.training.num_class_images, None), square)
        return [_Part(photos=_Images(photos, square), prompts=prompts, class_images=class_images)]
    parts = []
    for shape, positions in photos_by_shape(photos, plan.shapes).items():
        share = -(-member.config.training.num_class_images * len(positions) // len(photos))
        parts.append(
            _Part(
                photos=_Images(tuple(photos[i] for i in positions), shape),
                prompts=tuple(prompts[i] for i in positions) if len(prompts) > 1 else prompts,
                class_images=_Images(_class_files(member, base, share, shape), shape),
            )
        )
    return parts


def _photo_weights(member: Member) -> Tensor | None:
    """1 in the subject, `training.outside_weight` around it, between the two where a cell holds both; (n, 1, h, w)."""
    if member.inside is None:
        return None
    return (member.inside + member.config.training.outside_weight * (1 - member.inside)).unsqueeze(1)


def _class_files(member: Member, base: Base, num_images: int, shape: Shape | None) -> tuple[Path, ...]:
    """The class images' files, () without prior preservation."""
    config = member.config
    if config.training.prior_weight == 0:
        return ()
    folder = ensure_class_images(
        base,
        config.model,
        config.data,
        class_word=member.subject.class_word,
        num_images=num_images,
        shape_px=None if shape == (base.size_px, base.size_px) else shape,
    )
    return tuple(sorted(folder.glob("[!.]*.png"))[:num_images])


def _class_caption(member: Member) -> str:
    return class_prompt(member.config.data.class_template, class_word=member.subject.class_word)


def _encode(image_sets: list[_Images], plan: Plan, device: torch.device) -> dict[_Images, LatentStats]:
    vae = load_vae(plan.base, device=device, dtype=plan.dtype)
    encoded = {}
    for each in image_sets:
        seen = [plan.photos.get(file) or _load_class_image(file, each.shape) for file in each.files]
        images, sizes = stack_squares(seen)
        encoded[each] = encode_photos(images, vae, plan.base.family, sizes)
    plan.photos.clear()
    return encoded


def _load_class_image(file: Path, shape: Shape) -> Square:
    try:
        return load_shape(file, shape)
    except UserError as error:
        raise UserError(f"{error}; it is a class image: delete it, the same command draws it again") from None
