"""What a training on maps will take, before it starts: parameters, steps, disk, and hours from counted operations."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from delora_sd.adapters.lowrank.adapter import create_adapter
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import find_targets
from delora_sd.config.load import to_yaml
from delora_sd.diffusion.bases import SD15_ARCHITECTURE, find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.errors import UserError
from delora_sd.maps.dataset import find_map_set
from delora_sd.maps.door import TARGETS, adapter_config, check_map_config, num_steps
from delora_sd.maps.encoder import count_encoder, encoder_widths
from delora_sd.maps.settings import MapDataConfig, MapTrainConfig
from delora_sd.maps.store import store_bytes
from delora_sd.settings import ModelConfig

SCENE_PARSE_PAIRS = {"train": 20_210, "test": 2_000}
"""SceneParse150's, where the dataset is not there yet."""

SUSTAINED_TFLOPS = 300.0
"""What an H200 sustains in bf16 at 30% of its peak; an assumption, so hours scale with it."""

OFT_BLOCKS = 4


@dataclass(frozen=True, kw_only=True)
class Shapes:
    """A base without its weights."""

    base: Base
    unet: nn.Module


def load_shapes(model: ModelConfig) -> Shapes:
    base = find_base(model)
    return Shapes(base=base, unet=load_denoiser(base, device="meta", dtype=torch.float32))


def describe_training(config: MapTrainConfig) -> list[str]:
    """Returns the resolved settings and what they will take, line by line.

    Raises:
        UserError: settings no run could satisfy, or no base.
    """
    check_map_config(config)
    shapes = load_shapes(config.model)
    pairs, where = count_pairs(config.data, "train")
    steps = num_steps(config, pairs)
    hours = training_hours(config, shapes, steps)
    encoder = count_encoder(encoder_widths(shapes.base), shapes.unet.conv_in.out_channels)
    return [
        to_yaml(config).rstrip(),
        "",
        f"pairs: {pairs:,} ({where}); steps: {steps:,} of {config.training.batch_size}",
        f"control encoder: {encoder:,} parameters, {'trained' if config.control.trained else 'frozen'}",
        f"adapter: {count_adapter(config, shapes.unet)} parameters",
        f"OFT's published count on Stable Diffusion 1.5: {show_identity()}",
        f"cache: {show_gb(cache_bytes(shapes, pairs))} of latents, labels and embeddings on disk",
        f"time: about {hours:.1f} h on an H200 ({SUSTAINED_TFLOPS:g} TFLOP/s sustained, an assumption)",
    ]


def count_pairs(config: MapDataConfig, split: str) -> tuple[int, str]:
    """Returns how many pairs a split has, and where that is known from."""
    try:
        return len(find_map_set(config, split).pairs), config.dataset
    except UserError as error:
        held_out = config.search_maps if split == "train" else 0
        return SCENE_PARSE_PAIRS[split] - held_out, f"SceneParse150's; {error}"


def count_adapter(config: MapTrainConfig, unet: nn.Module) -> str:
    if config.control.alone:
        return "no adapter: 0"
    adapter = adapter_config(config)
    if adapter.method not in METHODS:
        return f"{adapter.method}: see `delora-sd methods`;"
    targets = find_targets(unet, adapter.target_modules)
    weights = {name: torch.zeros(()).expand(layer.weight.shape) for name, layer in targets.items()}
    return f"{adapter.method}, {len(targets)} layers: {create_adapter(adapter, weights, seed=0).num_parameters():,}"


def cache_bytes(shapes: Shapes, pairs: int) -> int:
    return store_bytes(shapes.base, pairs)


def training_hours(config: MapTrainConfig, shapes: Shapes, steps: int) -> float:
    """Returns hours: a step takes a forward, a backward to the activations, and with checkpointing a forward again."""
    passes = 3 if config.training.gradient_checkpointing else 2
    flops = passes * steps * config.training.batch_size * forward_flops(shapes)
    return flops / (SUSTAINED_TFLOPS * 1e12) / 3600


def drawing_hours(shapes: Shapes, num_images: int, num_inference_steps: int) -> float:
    """Returns hours of a guided sampling: two forwards per step and image."""
    return 2 * num_images * num_inference_steps * forward_flops(shapes) / (SUSTAINED_TFLOPS * 1e12) / 3600


def forward_flops(shapes: Shapes) -> int:
    """Returns the operations of one image's forward through the UNet, counted on shapes alone."""
    from torch.utils.flop_counter import FlopCounterMode

    base = shapes.base
    latents = torch.zeros(1, base.latent_channels, base.latent_side, base.latent_side, device="meta")
    known = base.family.condition_shapes(base)
    conditions = {name: torch.zeros(1, *shape, device="meta") for name, shape in known.items()}
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        base.family.predict(shapes.unet, latents, torch.zeros(1, device="meta"), conditions)
    return counter.get_total_flops()


def oft_identity() -> dict[str, int]:
    """Returns the parts of 16,281,968, the parameters OFT's README prints for n = 4 on this task.

    Beside its blocks train the encoder and ControlNet's time embedding, which nothing uses.
    """
    shapes = load_shapes(ModelConfig(base=SD15_ARCHITECTURE))
    parts = {}
    for name, targets in (("attention", TARGETS["attention"]), ("geglu", ("ff.net.0.proj",))):
        sides = [layer.weight.shape[1] // OFT_BLOCKS for layer in find_targets(shapes.unet, targets).values()]
        parts[name] = sum(OFT_BLOCKS * side * (side - 1) // 2 for side in sides)  # a skew-symmetric block's entries
    widths = shapes.unet.config.block_out_channels
    embedding = 4 * widths[0]
    parts["control encoder"] = count_encoder(encoder_widths(shapes.base), widths[0])
    parts["unused time embedding"] = widths[0] * embedding + embedding + embedding * embedding + embedding
    return parts


def show_identity() -> str:
    parts = oft_identity()
    return " + ".join(f"{count:,} ({name})" for name, count in parts.items()) + f" = {sum(parts.values()):,}"


def show_gb(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e8 else f"{math.ceil(size / 1e6)} MB"
