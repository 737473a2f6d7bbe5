"""What training on a base takes, on any machine: one step is run on shapes alone, on device "meta".

Computed, not measured: what PyTorch's tensors hold at the worst moment, without the allocator's gaps, CUDA's own
context (about 0.5 GB) and kernels' workspaces.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import cache, partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from delora_sd.adapters.attach import with_default_layers
from delora_sd.adapters.lowrank.pack import detach
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser, load_text, load_vae, model_bytes, text_bytes
from delora_sd.settings import ModelConfig, TrainConfig
from delora_sd.training.memory import meter
from delora_sd.training.memory.pack_size import random_cell, train_one_step

TABLE = Path(__file__).with_name("needs.json")
"""Of every architecture, computed by scripts/bench/memory_table.py: the doctor need not compute it again."""

KINDS = ("none", "int8", "int4")
"""`model.quantization`; none: bf16."""

_META = torch.device("meta")
_INT8_PER_ROW = 4
"""torchao: one fp32 scale per output row."""
_INT4_PER_WEIGHT = 0.5 + 4 / 64
"""bitsandbytes' NF4: half a byte, and one fp32 scale per 64 weights."""


@dataclass(frozen=True, kw_only=True)
class Needs:
    """Bytes, of images of `size_px`."""

    size_px: int
    weights: dict[str, int]
    """Of the frozen denoiser, by `model.quantization`."""
    step: int
    """Beside them at the worst moment of a step: activations, gradients, adapter and optimizer."""
    checkpointed_step: int
    """The same with `training.gradient_checkpointing=true`."""
    text: int
    """Text encoders in bf16; they leave before the denoiser comes."""
    vae: int

    def peak(self, kind: str, *, is_checkpointed: bool) -> int:
        """Returns the most that is held at once."""
        step = self.checkpointed_step if is_checkpointed else self.step
        return max(self.text, self.weights[kind] + step)


def usual_needs(base: Base) -> Needs:
    """Returns what `usual_training` takes: of a base of released sizes as the table has it, else computed."""
    known = read_table().get(base.name)
    is_known = known is not None and known.size_px == base.size_px
    return known if is_known else estimate(base, usual_training(base.name))


def usual_training(base: str) -> TrainConfig:
    """Returns what the numbers are of: DeLoRA of rank 16, one photo and one class image a step."""
    return TrainConfig(model=ModelConfig(base=base))


def write_table(needs: dict[str, Needs]) -> None:
    """Writes what was computed, {architecture: needs}, where the doctor looks first."""
    TABLE.write_text(json.dumps({name: asdict(each) for name, each in needs.items()}, indent=2) + "\n")


@cache
def read_table() -> dict[str, Needs]:
    return {name: Needs(**each) for name, each in json.loads(TABLE.read_text()).items()}


def estimate(base: Base, config: TrainConfig) -> Needs:
    """Returns what the settings take on the base with a bf16 denoiser: 10 to 60 CPU seconds, by the base's size."""
    config = replace(config, adapter=with_default_layers(config.adapter, base.family))
    text = load_text(base, device=_META, dtype=torch.bfloat16)
    denoiser = load_denoiser(base, device=_META, dtype=torch.bfloat16)
    plain = _step_bytes(config, base, denoiser)
    denoiser.enable_gradient_checkpointing()
    checkpointed = _step_bytes(config, base, denoiser.train())
    return Needs(
        size_px=base.size_px,
        weights={kind: stored_bytes(denoiser, kind) for kind in KINDS},
        step=plain,
        checkpointed_step=checkpointed,
        text=text_bytes(text),
        vae=model_bytes(load_vae(base, device=_META, dtype=torch.bfloat16)),
    )


def stored_bytes(denoiser: nn.Module, kind: str) -> int:
    """Returns what the frozen weights take, linear ones stored as `model.quantization` says."""
    linear = [module.weight for module in denoiser.modules() if isinstance(module, nn.Linear)]
    others = model_bytes(denoiser) - sum(weight.nbytes for weight in linear)
    of_weight: dict[str, Callable[[Tensor], float]] = {
        "none": lambda weight: weight.nbytes,
        "int8": lambda weight: weight.numel() + _INT8_PER_ROW * weight.shape[0],
        "int4": lambda weight: weight.numel() * _INT4_PER_WEIGHT,
    }
    return others + round(sum(map(of_weight[kind], linear)))


def _step_bytes(config: TrainConfig, base: Base, denoiser: nn.Module) -> int:
    cell = random_cell(config, base, _META)
    try:
        with _flash_attention():
            return meter.peak_bytes(_META, partial(train_one_step, config, base, denoiser, [cell]))
    finally:
        detach(denoiser)


class _FlashAttention(torch.autograd.Function):
    """Shapes of a fused attention: its scores are never whole in memory. On shapes alone PyTorch would make them."""

    @staticmethod
    def forward(ctx, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        result = query.new_empty(*query.shape[:-1], value.shape[-1])
        ctx.save_for_backward(query, key, value, result, query.new_empty(query.shape[:-1], dtype=torch.float32))
        return result

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(tensor) for tensor in ctx.saved_tensors[:3])


@contextmanager
def _flash_attention() -> Iterator[None]:
    """Inside, attention takes the memory that it takes on a GPU."""
    own = F.scaled_dot_product_attention
    F.scaled_dot_product_attention = lambda query, key, value, *_, **__: _FlashAttention.apply(query, key, value)
    try:
        yield
    finally:
        F.scaled_dot_product_attention = own
