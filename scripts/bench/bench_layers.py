#!/usr/bin/env python
"""Time of adapted layers, forward + backward: our DeLoRA beside peft's DeLoRA, LoRA and DoRA and the bare layer.

    python scripts/bench/bench_layers.py                 # one CPU thread, fp32
    python scripts/bench/bench_layers.py --device cuda   # bf16 base, fp32 adapters

Every round runs all contestants one after the other, each round begins with another one, and all share the input and
the frozen weights. A figure is a ratio of the best rounds (on a CPU of the process's own time: a busy neighbour slows a
round down and never speeds one up), and the last line weighs the shapes by how many of SD 1.5's 128 layers have them.
Layers that read captions get no gradient for their input, as in the UNet: nothing that is trained lies before them.
"""

import argparse
import time
from collections.abc import Callable

import torch
from peft import DeloraConfig, LoraConfig, get_peft_model
from torch import nn

from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.settings import AdapterConfig
from delora_sd.training.record.manifest import device_name

RANK = 16

CAPTION_TOKENS = 77

SHAPES = {  # (in, out, tokens of one 512 px sample): layers of SD 1.5 with it
    (320, 320, 4096): 5 * 6,
    (640, 640, 1024): 5 * 6,
    (1280, 1280, 256): 5 * 6,
    (1280, 1280, 64): 6,
    (768, 320, CAPTION_TOKENS): 5 * 2,
    (768, 640, CAPTION_TOKENS): 5 * 2,
    (768, 1280, CAPTION_TOKENS): 6 * 2,
}


LAYERS = 4
"""Layers of one shape in the timed model; SD 1.5 has 6 to 30, whose factors we make together."""


class Projections(nn.Module):
    """Layers of one shape side by side, so that every library can adapt them by name."""

    def __init__(self, frozen: list[nn.Parameter]):
        super().__init__()
        self.blocks = nn.ModuleList(nn.ModuleDict({"to_q": _linear(weight)}) for weight in frozen)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        return [block["to_q"](x) for block in self.blocks]


def _linear(weight: nn.Parameter) -> nn.Linear:
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta")
    layer.weight = weight
    return layer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--batch", type=int, default=1, help="samples per step")
    parser.add_argument("--small", action="store_true", help="every side a tenth: does it run at all?")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cpu":
        torch.set_num_threads(1)
    print(f"{device_name()}; torch {torch.__version__}; forward + backward, batch {arguments.batch}, rank {RANK}\n")
    names = list(contestants(frozen_weights(8, 8, torch.device("cpu"))))
    print(f"{'in':>5} {'out':>5} {'tokens':>6} {'layers':>6} | " + " ".join(f"{name:>17}" for name in names))
    totals = dict.fromkeys(names, 0.0)
    for (in_features, out_features, tokens), count in SHAPES.items():
        if arguments.small and tokens != CAPTION_TOKENS:
            in_features, out_features, tokens = in_features // 10, out_features // 10, tokens // 10
        seconds = time_shape(in_features, out_features, tokens, device, arguments)
        reference = seconds["peft lora"]
        row = " ".join(f"{seconds[name] / reference:17.3f}" for name in names)
        print(f"{in_features:5} {out_features:5} {tokens:6} {count:6} | {row}", flush=True)
        for name in names:
            totals[name] += count * seconds[name]
    print(
        f"{'all layers, relative to peft lora':>26} | "
        + " ".join(f"{totals[n] / totals['peft lora']:17.3f}" for n in names)
    )
    ratios = {name: totals[name] / totals["peft delora"] for name in names if name.startswith("delora")}
    print("\nrelative to peft delora: " + ", ".join(f"{name} {ratio:.3f}" for name, ratio in ratios.items()))


def contestants(frozen: list[nn.Parameter]) -> dict[str, Callable]:
    """Returns {name: x -> y}; every call does all the work of a training step's forward."""
    found: dict[str, Callable] = {"base": Projections(frozen)}
    rank = min(RANK, *frozen[0].shape)
    for init in ("frozen_copy", "mirrored", "zero_up"):
        found[f"delora {init.replace('_', ' ')}"] = our_delora(Projections(frozen), rank, init)
    for name, config in {
        "peft delora": DeloraConfig(r=rank, target_modules=["to_q"]),
        "peft lora": LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["to_q"]),
        "peft dora": LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=["to_q"], use_dora=True),
    }.items():
        found[name] = get_peft_model(Projections(frozen), config, autocast_adapter_dtype=True)
    return found


def frozen_weights(in_features: int, out_features: int, device: torch.device) -> list[nn.Parameter]:
    torch.manual_seed(0)
    layers = [nn.Linear(in_features, out_features, bias=False) for _ in range(LAYERS)]
    return [nn.Parameter(layer.weight.detach().to(device, _dtype(device)), requires_grad=False) for layer in layers]


def _dtype(device: torch.device) -> torch.dtype:
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def our_delora(layer: nn.Module, rank: int, init: str) -> Callable:
    pack = attach_adapters(layer, [AdapterConfig(rank=rank, init=init, target_modules=("to_q",))], seeds=[0])

    def forward(x: torch.Tensor) -> list[torch.Tensor]:
        pack.make_factors()
        return layer(x)

    return forward


def time_shape(
    in_features: int, out_features: int, tokens: int, device: torch.device, arguments: argparse.Namespace
) -> dict[str, float]:
    """Returns the seconds of each contestant's best round on one shape, rounds interleaved."""
    models = list(contestants(frozen_weights(in_features, out_features, device)).items())
    dtype = _dtype(device)
    x = torch.randn(arguments.batch, tokens, in_features, device=device, dtype=dtype)
    x.requires_grad_(tokens != CAPTION_TOKENS)
    upstream = torch.randn(arguments.batch, tokens, out_features, device=device, dtype=dtype)
    clock = time.perf_counter if device.type == "cuda" else time.process_time
    seconds: dict[str, list[float]] = {name: [] for name, _ in models}
    for round_number in range(arguments.rounds + 3):
        first = round_number % len(models)
        for name, model in models[first:] + models[:first]:
            began = clock()
            outputs = model(x)
            if outputs[0].requires_grad:  # the bare layer on a caption has nothing to give a gradient to
                torch.autograd.backward(outputs, [upstream] * LAYERS)
            if device.type == "cuda":
                torch.cuda.synchronize()
            if round_number >= 3:  # the first rounds warm caches and allocators
                seconds[name].append(clock() - began)
    return {name: min(values) for name, values in seconds.items()}


if __name__ == "__main__":
    main()
