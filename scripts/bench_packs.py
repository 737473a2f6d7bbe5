#!/usr/bin/env python
"""Throughput of packed training: samples/s and memory for K adapters in one batch, beside K runs in other ways.

    python scripts/bench_packs.py                               # the miniature on this machine's CPU
    python scripts/bench_packs.py --base sd15-architecture --dtype bf16 --packs 1 2 4 8 16 30      # a GPU, 512 px
    python scripts/bench_packs.py --processes 8                 # also K processes at once on the same device

One sample is one image through one training step (forward, backward, optimizer) of the real loop; class images of
prior preservation are off. Every figure is a ratio to "K = 1, one after the other", measured in the same run.
"""

import argparse
import multiprocessing
import statistics
import time
from concurrent.futures import ProcessPoolExecutor

import torch
from accelerate import Accelerator

from delora_sd.adapters.pack import attach_adapters
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.parts import load_noise_scheduler, load_unet, resolve_dtype
from delora_sd.settings import AdapterConfig, ModelConfig, OptimizerConfig, TrainConfig, TrainingConfig
from delora_sd.training.loop import run_loop
from delora_sd.training.manifest import device_name
from delora_sd.training.objective import AdaptedUNet
from delora_sd.training.optimization import build_optimizer
from delora_sd.training.pack_size import random_cell
from delora_sd.training.session import Session

WARM_UP_STEPS = 3


class Clock:
    """Stands where the reporter stands: the time of every step."""

    stop_requested = False

    def __init__(self):
        self.times: list[float] = []

    def after_step(self, report) -> None:
        self.times.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        steps = [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(steps[WARM_UP_STEPS:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="miniature")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 2, 4, 8, 16, 30])
    parser.add_argument("--steps", type=int, default=12, help="timed steps per pack size")
    parser.add_argument("--batch", type=int, default=1, help="photos per step and adapter")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--processes", type=int, default=0, help="also time this many processes at once, K = 1 each")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    arguments = parser.parse_args()
    print(f"{device_name()}; torch {torch.__version__}; {arguments.base}, batch {arguments.batch} per adapter\n")
    print(f"{'K':>4} {'samples/s':>10} {'x one after the other':>22} {'peak GB':>8}")
    alone = None
    for size in arguments.packs:
        seconds, memory = time_pack(size, arguments)
        speed = size * arguments.batch / seconds
        alone = alone or speed
        print(f"{size:4} {speed:10.2f} {speed / alone:22.2f} {memory:>8}", flush=True)
    if arguments.processes:
        speed = time_processes(arguments)
        print(
            f"{arguments.processes:3}p {speed:10.2f} {speed / alone:22.2f}   ({arguments.processes} processes at once)"
        )


def time_pack(size: int, arguments: argparse.Namespace) -> tuple[float, str]:
    """Returns (median seconds per step, peak GB on the device) of a pack of `size` adapters."""
    accelerator = Accelerator()
    device = accelerator.device
    base = find_base(ModelConfig(base=arguments.base, offline=True))
    unet = load_unet(base, device=device, dtype=resolve_dtype(arguments.dtype, device))
    unet = unet.to(memory_format=torch.channels_last)
    if arguments.checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()
    training = TrainingConfig(
        num_steps=arguments.steps + WARM_UP_STEPS + 1, batch_size=arguments.batch, prior_weight=0.0
    )
    configs = [TrainConfig(seed=seed, training=training) for seed in range(size)]
    adapter = AdapterConfig(rank=arguments.rank, init="mirrored")
    pack = attach_adapters(unet, [adapter] * size, seeds=list(range(size)))
    session = Session(
        accelerator=accelerator,
        model=AdaptedUNet(unet, pack),
        adapters=list(pack.adapters),
        optimizer=build_optimizer(list(pack.adapters), [OptimizerConfig()] * size, 1e-3, device),
        configs=configs,
        cells=[random_cell(configs[0], base, unet)] * size,
        alphas_cumprod=load_noise_scheduler(base).alphas_cumprod.to(device),
        prediction_type=base.prediction_type,
        scales=[1.0] * size,
        diverged={},
    )
    clock = Clock()
    run_loop(session, clock, start_step=0)
    if device.type != "cuda":
        return clock.seconds_per_step(), "-"
    memory = torch.cuda.max_memory_allocated() / 1e9
    torch.cuda.reset_peak_memory_stats()
    return clock.seconds_per_step(), f"{memory:.1f}"


def time_processes(arguments: argparse.Namespace) -> float:
    """Returns the samples/s of K = 1 in several processes together, as users do it by hand."""
    with ProcessPoolExecutor(arguments.processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        seconds = [future.result() for future in [pool.submit(_alone, arguments) for _ in range(arguments.processes)]]
    return sum(arguments.batch / each for each in seconds)


def _alone(arguments: argparse.Namespace) -> float:
    return time_pack(1, arguments)[0]


if __name__ == "__main__":
    main()
