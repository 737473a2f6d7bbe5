"""Before the loop: photos, class images and captions become cached latents and embeddings; then the encoders leave."""

import gc

import torch
from torch import Tensor

from delora_sd.data.images import load_photos
from delora_sd.data.prompts import class_prompt, instance_prompt
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.cache import LatentStats, encode_photos, encode_prompts
from delora_sd.diffusion.parts import Base, load_text_encoder, load_vae
from delora_sd.generation.class_images import ensure_class_images
from delora_sd.settings import TrainConfig
from delora_sd.training.batches import CellData


def prepare_cells(
    configs: list[TrainConfig],
    subjects: list[Subject],
    base: Base,
    *,
    size_px: int,
    device: torch.device,
    dtype: torch.dtype,
) -> list[CellData]:
    """Returns the cached inputs of every adapter; subjects and class words that repeat are encoded once."""
    class_folders = [_class_folder(config, subject, base) for config, subject in zip(configs, subjects, strict=True)]
    captions = [_captions(config, subject) for config, subject in zip(configs, subjects, strict=True)]
    embeddings = _embed(sorted({text for pair in captions for text in pair}), base, device, dtype)
    photo_sets = {tuple(subject.photos) for subject in subjects} | {files for files in class_folders if files}
    latents = _encode(sorted(photo_sets), base, size_px, device, dtype)
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
    return [
        CellData(
            photos=latents[tuple(subject.photos)],
            instance_embedding=embeddings[instance],
            class_images=latents[files] if files else None,
            class_embedding=embeddings[class_caption] if files else None,
        )
        for subject, files, (instance, class_caption) in zip(subjects, class_folders, captions, strict=True)
    ]


def _class_folder(config: TrainConfig, subject: Subject, base: Base) -> tuple:
    """The class images' files, () without prior preservation."""
    if config.training.prior_weight == 0:
        return ()
    num_images = config.training.num_class_images
    folder = ensure_class_images(base, config.model, config.data, class_word=subject.class_word, num_images=num_images)
    return tuple(sorted(folder.glob("*.png"))[:num_images])


def _captions(config: TrainConfig, subject: Subject) -> tuple[str, str]:
    data, class_word = config.data, subject.class_word
    return (
        instance_prompt(data.instance_template, identifier=data.identifier, class_word=class_word),
        class_prompt(data.class_template, class_word=class_word),
    )


def _embed(texts: list[str], base: Base, device: torch.device, dtype: torch.dtype) -> dict[str, Tensor]:
    tokenizer, encoder = load_text_encoder(base, device=device, dtype=dtype)
    return dict(zip(texts, encode_prompts(texts, tokenizer, encoder), strict=True))


def _encode(
    photo_sets: list[tuple], base: Base, size_px: int, device: torch.device, dtype: torch.dtype
) -> dict[tuple, LatentStats]:
    vae = load_vae(base, device=device, dtype=dtype)
    return {files: encode_photos(load_photos(files, size_px), vae) for files in photo_sets}
