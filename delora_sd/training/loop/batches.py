"""What each adapter sees at each step. Everything random is a function of (seed, step), never of pack, rank or history.

So a pack of three equals three runs of one, two processes equal one, and resuming needs no random state:
the position in the data is the step number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from delora_sd.diffusion.cache import LatentStats, stack_conditions
from delora_sd.diffusion.families.family import Condition, Conditions, Objective
from delora_sd.random_streams import stream_generator
from delora_sd.training.loop.member import CellData


@dataclass(frozen=True, kw_only=True)
class Draw:
    """One adapter's random choices for one step, on the CPU; n images, instance first, then class images."""

    bucket: int
    """Whose photos; 0 without buckets."""
    photos: Int[Tensor, " batch"]
    class_images: Int[Tensor, " batch"]
    times: Shaped[Tensor, " n"]
    """In the unit of the base's objective."""
    latent_noise: Float[Tensor, "n channels height width"]
    """Samples the VAE's posterior."""
    noise: Float[Tensor, "n channels height width"]
    """Is added to the latents."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Inputs of one call of the denoiser for K adapters, adapter-major: K * n samples."""

    latents: Float[Tensor, "samples channels height width"]
    noise: Float[Tensor, "samples channels height width"]
    times: Shaped[Tensor, " samples"]
    conditions: Conditions
    weights: Float[Tensor, "samples 1 height width"] | None = None
    """Of the loss at each place; none: 1."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """What the model is given besides, under the names of its arguments."""


def draw_step(data: CellData, objective: Objective, *, seed: int, step: int, batch_size: int) -> Draw:
    """Returns the choices of one adapter at one step, for the whole batch over all processes."""
    bucket, turn, stream, class_stream = 0, step, "photos", "class images"
    if data.buckets:
        bucket, turn = _bucket_and_turn([len(each.photos.mean) for each in data.buckets], seed, step)
        data, stream, class_stream = data.buckets[bucket], f"photos {bucket}", f"class images {bucket}"
    num_images = batch_size * (2 if data.class_images else 1)
    shape = (num_images, *data.photos.mean.shape[1:])
    generator = stream_generator(f"{seed}/step {step}")
    return Draw(
        bucket=bucket,
        photos=_positions(len(data.photos.mean), stream, seed, turn, batch_size),
        class_images=_positions(
            len(data.class_images.mean) if data.class_images else 1, class_stream, seed, turn, batch_size
        ),
        times=objective.draw_times(num_images, generator),
        latent_noise=torch.randn(shape, generator=generator),
        noise=torch.randn(shape, generator=generator),
    )


def part_of_draw(draw: Draw, *, part: int, num_parts: int) -> Draw:
    """Returns share `part` of `num_parts` (processes x accumulation): its photos and the class images beside them."""
    share = len(draw.photos) // num_parts
    own = torch.arange(part * share, (part + 1) * share)
    has_class_images = len(draw.times) > len(draw.photos)
    rows = torch.cat([own, own + len(draw.photos)]) if has_class_images else own
    return Draw(
        bucket=draw.bucket,
        photos=draw.photos[own],
        class_images=draw.class_images[own],
        times=draw.times[rows],
        latent_noise=draw.latent_noise[rows],
        noise=draw.noise[rows],
    )


def assemble_batch(cells: list[CellData], draws: list[Draw], device: torch.device) -> Batch:
    """Returns the inputs of one call of the denoiser; the VAE's posterior is sampled anew at every step."""
    cells = [cell.buckets[draw.bucket] if cell.buckets else cell for cell, draw in zip(cells, draws, strict=True)]
    chosen: list[tuple[LatentStats, Tensor]] = []
    captions: list[Condition] = []
    for cell, draw in zip(cells, draws, strict=True):
        chosen.append((cell.photos, draw.photos))
        captions += [cell.captions[photo if len(cell.captions) > 1 else 0] for photo in draw.photos.tolist()]
        if cell.class_images:
            chosen.append((cell.class_images, draw.class_images))
            captions += [cell.class_caption] * len(draw.class_images)
    mean = _gather(chosen, lambda stats: stats.mean, device)
    std = _gather(chosen, lambda stats: stats.std, device)
    has_sizes = all(stats.sizes is not None for stats, _ in chosen)
    sizes = _gather(chosen, lambda stats: stats.sizes, device) if has_sizes else None
    latent_noise = torch.cat([draw.latent_noise for draw in draws]).to(device, non_blocking=True)
    return Batch(
        latents=torch.addcmul(mean, std, latent_noise),
        noise=torch.cat([draw.noise for draw in draws]).to(device, non_blocking=True),
        times=torch.cat([draw.times for draw in draws]).to(device, non_blocking=True),
        conditions={name: value.to(device) for name, value in stack_conditions(captions, sizes).items()},
        weights=_weights(cells, draws, device),
        inputs=_inputs(cells, draws, device),
    )


def _gather(
    chosen: list[tuple[LatentStats, Tensor]], of: Callable[[LatentStats], Tensor], device: torch.device
) -> Tensor:
    """Returns the chosen rows, one part after the other."""
    return torch.cat([of(stats)[rows.to(of(stats).device)] for stats, rows in chosen]).to(device)


def _inputs(cells: list[CellData], draws: list[Draw], device: torch.device) -> dict[str, Tensor]:
    """Returns what is given with the photos; whoever has such inputs has no class images."""
    pairs = list(zip(cells, draws, strict=True))
    return {
        name: torch.cat([cell.photo_inputs[name][draw.photos] for cell, draw in pairs]).to(device, non_blocking=True)
        for name in cells[0].photo_inputs
    }


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


def _bucket_and_turn(num_photos: list[int], seed: int, step: int) -> tuple[int, int]:
    """Returns (the bucket of a step, how often it was chosen before): each as often as it has photos, in an order that
    is shuffled anew every epoch."""
    epoch, offset = divmod(step, sum(num_photos))
    owners = torch.repeat_interleave(torch.arange(len(num_photos)), torch.tensor(num_photos))
    order = owners[torch.randperm(len(owners), generator=stream_generator(f"{seed}/buckets/epoch {epoch}"))].tolist()
    bucket = order[offset]
    return bucket, epoch * num_photos[bucket] + order[:offset].count(bucket)


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
