"""How many adapters fit the GPU together: two short measured steps, then arithmetic."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from delora_sd.adapters.pack import attach_adapters, detach
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.cache import LatentStats
from delora_sd.diffusion.parts import load_unet, resolve_device, resolve_dtype
from delora_sd.settings import TrainConfig
from delora_sd.training.batches import CellData, assemble_batch, draw_step
from delora_sd.training.objective import AdaptedUNet, pack_losses

LARGEST_PACK = 30
"""All subjects of the dataset at once; more gains nothing, the products are already large."""

LARGEST_PACK_ON_CPU = 8
"""Beyond it a CPU gains nothing."""

USABLE_SHARE = 0.9
"""Of the GPU's free memory; the rest is for the allocator's gaps."""


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


def largest_pack(config: TrainConfig) -> int:
    """Returns how many runs like this one train together at best on this device, at least 1."""
    if resolve_device().type != "cuda":
        return LARGEST_PACK_ON_CPU
    usable = torch.cuda.mem_get_info()[0] * USABLE_SHARE
    return min(LARGEST_PACK, max(1, measure_pack_memory(config).largest_pack(usable)))


def measure_pack_memory(config: TrainConfig) -> PackMemory:
    """Measures the peak of one step with one and with two adapters on the GPU; weights are the base's own."""
    device = resolve_device()
    base = find_base(config.model)
    unet = load_unet(base, device=device, dtype=resolve_dtype(config.model.dtype, device))
    unet = unet.to(memory_format=torch.channels_last)
    if config.training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    one, two = (_step_peak(config, unet, size) for size in (1, 2))
    per_adapter = max(1.0, two - one)
    return PackMemory(fixed_bytes=one - per_adapter, bytes_per_adapter=per_adapter)


def _step_peak(config: TrainConfig, unet: nn.Module, pack_size: int) -> float:
    pack = attach_adapters(unet, [config.adapter] * pack_size, seeds=list(range(pack_size)))
    torch.cuda.reset_peak_memory_stats()
    cells = [random_cell(config, unet)] * pack_size
    draws = [
        draw_step(cell, seed=0, step=0, batch_size=config.training.batch_size, num_timesteps=1000) for cell in cells
    ]
    losses = pack_losses(
        AdaptedUNet(unet, pack),
        assemble_batch(cells, draws, unet.device),
        alphas_cumprod=torch.linspace(0.99, 0.01, 1000, device=unet.device),
        prediction_type="epsilon",
        prior_weights=torch.full((pack_size,), config.training.prior_weight, device=unet.device),
    )
    sum(losses).sum().backward()
    detach(unet)
    return float(torch.cuda.max_memory_allocated())


def random_cell(config: TrainConfig, unet: nn.Module, *, num_tokens: int = 77) -> CellData:
    """Returns inputs of the right size and no meaning: memory and speed do not depend on the pictures."""
    channels = unet.config.in_channels
    side = config.model.size_px // 8 if config.model.size_px else unet.config.sample_size
    mean, std = torch.randn(2, 5, channels, side, side, device=unet.device)
    photos = LatentStats(mean=mean, std=std.abs() * 0.1)
    caption = torch.randn(num_tokens, unet.config.cross_attention_dim, device=unet.device)
    cell = CellData(photos=photos, instance_embedding=caption, class_images=None, class_embedding=None)
    return replace(cell, class_images=photos, class_embedding=caption) if config.training.prior_weight else cell
