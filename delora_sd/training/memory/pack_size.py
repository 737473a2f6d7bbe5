"""How many adapters fit the device together: two short measured steps, then arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import nn

from delora_sd.adapters.attach import with_default_layers
from delora_sd.adapters.lowrank.pack import attach_adapters, detach
from delora_sd.config.load import to_dict
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.cache import LatentStats, whole_sizes
from delora_sd.diffusion.families.family import Base, Condition
from delora_sd.diffusion.parts import resolve_device, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.settings import TrainConfig
from delora_sd.training.loop.batches import assemble_batch, draw_step
from delora_sd.training.loop.member import CellData
from delora_sd.training.loop.objective import AdaptedDenoiser, load_training_denoiser, pack_losses
from delora_sd.training.loop.optimization import build_optimizer
from delora_sd.training.memory import meter

LARGEST_PACK = 30
"""All subjects of the dataset at once; more gains nothing, the products are already large."""

LARGEST_PACK_ON_CPU = 8
"""Beyond it a CPU gains nothing."""

USABLE_SHARE = 0.9
"""Of the free memory; the rest is for the allocator's gaps."""


WEIGH_NOTHING = ("boundary", "boundary_unit", "boundary_pattern", "alpha")
"""Settings of an adapter that change its numbers and not its size."""


@dataclass(frozen=True, kw_only=True)
class PackMemory:
    """Peak memory of a training step as a straight line in the pack size."""

    fixed_bytes: float
    bytes_per_adapter: float

    def largest_pack(self, usable_bytes: float) -> int:
        """Returns the largest pack that fits, 0 when not even one adapter does."""
        return max(0, int((usable_bytes - self.fixed_bytes) // self.bytes_per_adapter))

    def needed_bytes(self, pack: int) -> float:
        return self.fixed_bytes + pack * self.bytes_per_adapter


def best_pack() -> int:
    """Returns how many adapters train together at best on this kind of device, memory permitting."""
    return LARGEST_PACK_ON_CPU if resolve_device().type == "cpu" else LARGEST_PACK


def fit_pack(wanted: int, needs: PackMemory, say: Callable[[str], None]) -> int:
    """Returns `wanted`, or the largest pack that fits the free memory, at least 1; then it says what would not fit."""
    device = resolve_device()
    usable = meter.free_bytes(device) * USABLE_SHARE
    fitting = needs.largest_pack(usable)
    if wanted <= fitting:
        return wanted
    where = f"{_gb(usable)} of {'memory' if device.type == 'cpu' else 'GPU memory'} can be used"
    if fitting == 0:
        say(
            f"one adapter needs about {_gb(needs.needed_bytes(1))} to train, {where}: going on alone, which may fail; "
            "training.gradient_checkpointing=true needs less"
        )
    else:
        say(
            f"{wanted} adapters together need about {_gb(needs.needed_bytes(wanted))} ({_gb(needs.fixed_bytes)} + "
            f"{_gb(needs.bytes_per_adapter)} each), {where}: going on with packs of {fitting}"
        )
    return max(1, fitting)


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def measure_pack_memory(configs: list[TrainConfig]) -> PackMemory:
    """Returns what the most demanding of the runs needs: the peak of one step with one and with two adapters.

    Of runs that differ in nothing that memory depends on but the rank, the one of the highest rank is measured. Runs
    that cannot start are passed over, for they say so themselves when it is their turn.

    Raises:
        UserError: none of them can start.
    """
    found, refusals = [], []
    for alike in _alike(configs):
        for config in alike:
            try:
                found.append(_measure(config))
                break
            except UserError as error:
                refusals.append(error)
    if not found:
        raise refusals[0]
    return max(found, key=lambda needs: needs.bytes_per_adapter)


def _alike(configs: list[TrainConfig]) -> list[list[TrainConfig]]:
    """Returns the runs by what decides their memory, the highest rank of each first, every rank once."""
    groups: dict[str, dict[int, TrainConfig]] = {}
    for config in configs:
        adapter, training = to_dict(config.adapter), config.training
        for name in ("rank", *WEIGH_NOTHING):
            del adapter[name]
        batch = (training.batch_size, training.gradient_accumulation, training.gradient_checkpointing)
        decides = (to_dict(config.model), adapter, batch, training.prior_weight > 0, config.optimizer.name)
        groups.setdefault(repr(decides), {}).setdefault(config.adapter.rank, config)
    return [[ranks[rank] for rank in sorted(ranks, reverse=True)] for ranks in groups.values()]


def _measure(config: TrainConfig) -> PackMemory:
    device = resolve_device()
    training = replace(config.training, compile=False)
    dtype = resolve_dtype(config.model.dtype, device)
    base = find_base(config.model)
    config = replace(config, adapter=with_default_layers(config.adapter, base.family))
    denoiser = load_training_denoiser(base, config.model, training, device=device, dtype=dtype)
    cell = random_cell(config, base, device)
    one, two = (_step_peak(config, base, denoiser, [cell] * size) for size in (1, 2))
    weights = sum(parameter.untyped_storage().nbytes() for parameter in denoiser.parameters())
    del denoiser
    if device.type == "cuda":
        torch.cuda.empty_cache()  # or what is cached would not count as free
    per_adapter = max(1.0, two - one)
    return PackMemory(fixed_bytes=weights + one - per_adapter, bytes_per_adapter=per_adapter)


def _step_peak(config: TrainConfig, base: Base, denoiser: nn.Module, cells: list[CellData]) -> int:
    """Returns the peak of one step beside the denoiser; a step that does not fit counts as all that was free."""
    available = meter.free_bytes(denoiser.device)
    try:
        return meter.peak_bytes(denoiser.device, partial(train_one_step, config, base, denoiser, cells))
    except torch.OutOfMemoryError:
        return available
    finally:
        detach(denoiser)


def train_one_step(config: TrainConfig, base: Base, denoiser: nn.Module, cells: list[CellData]) -> None:
    """Forward, backward and optimizer step of one adapter per cell."""
    pack_size = len(cells)
    fused_rows = base.family.fused_rows(denoiser)
    pack = attach_adapters(denoiser, [config.adapter] * pack_size, seeds=list(range(pack_size)), fused_rows=fused_rows)
    optimizer = build_optimizer([(adapter, config.optimizer) for adapter in pack.adapters], denoiser.device)
    batch_size = config.training.batch_size // config.training.gradient_accumulation
    objective = base.family.objective(base, config.training, denoiser.device)
    draws = [draw_step(cell, objective, seed=0, step=0, batch_size=batch_size) for cell in cells]
    losses = pack_losses(
        AdaptedDenoiser(denoiser, pack, base.family.predict),
        assemble_batch(cells, draws, denoiser.device),
        objective=objective,
        prior_weights=torch.full((pack_size,), config.training.prior_weight),
    )
    sum(losses).sum().backward()
    optimizer.step()


def random_cell(config: TrainConfig, base: Base, device: torch.device) -> CellData:
    """Returns inputs of the right size and no meaning: memory and speed do not depend on the images."""
    mean, std = torch.randn(2, 5, base.latent_channels, base.latent_side, base.latent_side, device=device)
    photos = LatentStats(mean=mean, std=std.abs() * 0.1, sizes=whole_sizes(base.size_px, base.size_px, 5).to(device))
    caption = random_condition(base, device)
    cell = CellData(photos=photos, captions=(caption,), class_images=None, class_caption=None)
    return replace(cell, class_images=photos, class_caption=caption) if config.training.prior_weight else cell


def random_condition(base: Base, device: torch.device) -> Condition:
    """Returns a prompt of the longest kind without meaning: a tensor without axes says how many tokens count, all."""
    shapes = base.family.condition_shapes(base)
    return {
        name: torch.randn(shape, device=device) if shape else torch.tensor(base.num_text_tokens, device=device)
        for name, shape in shapes.items()
    }
