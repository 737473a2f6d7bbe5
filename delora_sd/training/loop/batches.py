"""What each adapter sees at each step. Everything random is a function of (seed, step), never of pack, rank or history.

So a pack of three equals three runs of one, two processes equal one, and resuming needs no random state:
the position in the data is the step number.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from delora_sd.random_streams import stream_generator
from delora_sd.training.loop.member import CellData


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One adapter's random choices for one step, on the CPU; n images, instance first, then class images."""

    photos: Int[Tensor, " batch"]
    class_images: Int[Tensor, " batch"]
    timesteps: Int[Tensor, " n"]
    latent_noise: Float[Tensor, "n channels height width"]
    """Samples the VAE's posterior."""
    noise: Float[Tensor, "n channels height width"]
    """Is added to the latents, and is the epsilon target."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of one UNet call for K adapters, adapter-major: K * n samples."""

    latents: Float[Tensor, "samples channels height width"]
    noise: Float[Tensor, "samples channels height width"]
    timesteps: Int[Tensor, " samples"]
    embeddings: Float[Tensor, "samples tokens dim"]
    weights: Float[Tensor, "samples 1 height width"] | None = None
    """Of the loss at each place; none: 1."""


def draw_step(data: CellData, *, seed: int, step: int, batch_size: int, num_timesteps: int) -> Draw:
    """Returns the choices of one adapter at one step, for the whole batch over all processes."""
    num_images = batch_size * (2 if data.class_images else 1)
    shape = (num_images, *data.photos.mean.shape[1:])
    generator = stream_generator(f"{seed}/step {step}")
    return Draw(
        photos=_positions(len(data.photos.mean), "photos", seed, step, batch_size),
        class_images=_positions(
            len(data.class_images.mean) if data.class_images else 1, "class images", seed, step, batch_size
        ),
        timesteps=torch.randint(0, num_timesteps, (num_images,), generator=generator),
        latent_noise=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
    )


def part_of_draw(draw: Draw, *, part: int, num_parts: int) -> Draw:
    """Returns share `part` of `num_parts` (processes x accumulation): its photos and the class images beside them."""
    share = len(draw.photos) // num_parts
    own = torch.arange(part * share, (part + 1) * share)
    has_class_images = len(draw.timesteps) > len(draw.photos)
    rows = torch.cat([own, own + len(draw.photos)]) if has_class_images else own
    return Draw(
        photos=draw.photos[own],
        class_images=draw.class_images[own],
        timesteps=draw.timesteps[rows],
        latent_noise=draw.latent_noise[rows],
        noise=draw.noise[rows],
    )


def assemble_batch(cells: list[CellData], draws: list[Draw], device: torch.device) -> Batch:
    """Returns the inputs of one UNet call; the VAE's posterior is sampled anew at every step."""
    means, stds, embeddings = [], [], []
    for cell, draw in zip(cells, draws, strict=True):
        photos, images = draw.photos.to(cell.photos.mean.device), draw.class_images
        means.append(cell.photos.mean[photos])
        stds.append(cell.photos.std[photos])
        if cell.photo_embeddings is None:
            embeddings.append(cell.instance_embedding.expand(len(photos), -1, -1))
        else:
            embeddings.append(cell.photo_embeddings[draw.photos.to(cell.photo_embeddings.device)])
        if cell.class_images:
            means.append(cell.class_images.mean[images.to(means[0].device)])
            stds.append(cell.class_images.std[images.to(means[0].device)])
            embeddings.append(cell.class_embedding.expand(len(images), -1, -1))
    latent_noise = torch.cat([draw.latent_noise for draw in draws]).to(device, non_blocking=True)
    return Batch(
        latents=torch.addcmul(torch.cat(means).to(device), torch.cat(stds).to(device), latent_noise),
        noise=torch.cat([draw.noise for draw in draws]).to(device, non_blocking=True),
        timesteps=torch.cat([draw.timesteps for draw in draws]).to(device, non_blocking=True),
        embeddings=torch.cat(embeddings).to(device),
        weights=_weights(cells, draws, device),
    )


def _weights(cells: list[CellData], draws: list[Draw], device: torch.device) -> Tensor | None:
    """Returns what each place of each sample counts, 1 for class images and photos without a mask; None if all do."""
    if all(cell.photo_weights is None for cell in cells):
        return None
    weights = []
    for cell, draw in zip(cells, draws, strict=True):
        own = torch.ones(len(draw.noise), 1, *draw.noise.shape[2:])
        if cell.photo_weights is not None:
            own[: len(draw.photos)] = cell.photo_weights[draw.photos]
        weights.append(own)
    return torch.cat(weights).to(device, non_blocking=True)


def _positions(num_items: int, what: str, seed: int, step: int, batch_size: int) -> Tensor:
    """Each epoch is a fresh permutation; position p of the stream is item p % n of epoch p // n."""
    order: dict[int, Tensor] = {}
    chosen = []
    for position in range(step * batch_size, (step + 1) * batch_size):
        epoch, offset = divmod(position, num_items)
        if epoch not in order:
            order[epoch] = torch.randperm(num_items, generator=stream_generator(f"{seed}/{what}/epoch {epoch}"))
        chosen.append(order[epoch][offset])
    return torch.stack(chosen)
