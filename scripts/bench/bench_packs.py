#!/usr/bin/env python
"""Throughput of packed training: K adapters in one batch, beside K runs one after the other and K processes at once.

    python scripts/bench/bench_packs.py                                         # the miniature on this machine's CPU
    python scripts/bench/bench_packs.py --base sd15-architecture --dtype bf16   # a GPU, 512 px
    python scripts/bench/bench_packs.py --packs 1 8 --processes                 # no processes at once: much sooner

One sample is one image through one training step (forward, backward, optimizer) of the real loop; class images of
prior preservation are off. Every measurement runs in fresh processes, and the single run is timed again beside every K,
so that a ratio compares minutes that lie together. Memory: tensors on a GPU; on a CPU the whole of the processes.
"""

import argparse
import multiprocessing
import resource
import statistics
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator

from delora_eval.benchmark.run.cell.profile import matrix_rate, unet_flops
from delora_sd.adapters.lowrank.pack import attach_adapters
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.parts import resolve_device, resolve_dtype
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import AdapterConfig, ModelConfig, OptimizerConfig, TrainConfig, TrainingConfig
from delora_sd.training.loop.loop import Session, run_loop
from delora_sd.training.loop.member import Member
from delora_sd.training.loop.objective import AdaptedDenoiser, load_training_denoiser
from delora_sd.training.loop.optimization import build_optimizer
from delora_sd.training.memory.meter import free_bytes
from delora_sd.training.memory.pack_size import random_cell
from delora_sd.training.record.manifest import device_name

WARM_UP_STEPS = 3
NOBODY = Subject(name="nobody", class_word="thing", is_live=False, photos=())
PACKS = [1, 2, 4, 8, 16, 30]


@dataclass(frozen=True)
class Measured:
    """What the processes of one measurement came to together."""

    samples_per_second: float
    gb: float
    """Sum of the processes' peaks."""


class Clock:
    """Stands where the reporter stands: the time of every step; the timed steps of all processes begin together."""

    stop_requested = False

    def __init__(self, barrier: Any = None):
        self.times: list[float] = []
        self._barrier = barrier

    def after_step(self, report) -> None:
        if self._barrier is not None and report.step == WARM_UP_STEPS:
            self._barrier.wait()
        self.times.append(time.perf_counter())

    def seconds_per_step(self) -> float:
        steps = [later - earlier for earlier, later in zip(self.times, self.times[1:], strict=False)]
        return statistics.median(steps[WARM_UP_STEPS:])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="miniature")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--packs", type=int, nargs="+", default=PACKS, help="pack sizes K")
    parser.add_argument("--processes", type=int, nargs="*", default=PACKS, help="which K also as K processes at once")
    parser.add_argument("--steps", type=int, default=12, help="timed steps per measurement")
    parser.add_argument("--batch", type=int, default=1, help="photos per step and adapter")
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--quantization", default="none", help="of the frozen base: none, int8, int4")
    parser.add_argument("--checkpointing", action="store_true", help="gradient checkpointing")
    arguments = parser.parse_args()
    print(f"{device_name()}; torch {torch.__version__}; {arguments.base}, batch {arguments.batch} per adapter")
    floor = floor_samples_per_second(arguments)
    print(f"floor: {floor:.2f} samples/s, the operations at the rate of a large product\n")
    print("| K | one after the other, samples/s | one pack | ratio | GB | K processes at once | ratio | GB |")
    print("| ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |")
    for size in arguments.packs:
        alone = time_processes(1, 1, arguments)
        pack = alone if size == 1 else time_processes(1, size, arguments)
        cells = [str(size), f"{alone.samples_per_second:.2f}", *_cells(pack, alone)]
        print("| " + " | ".join(cells + _at_once(size, alone, arguments)) + " |", flush=True)


def floor_samples_per_second(arguments: argparse.Namespace) -> float:
    """Returns what the device could do if it did nothing but large products; backward costs one more forward."""
    device = resolve_device()
    rate = matrix_rate(device, resolve_dtype(arguments.dtype, device))
    return rate / (2 * unet_flops(find_base(ModelConfig(base=arguments.base, offline=True))))


def _at_once(count: int, alone: Measured, arguments: argparse.Namespace) -> list[str]:
    """The cells of `count` processes at once; said instead of tried where they would not fit."""
    if count not in arguments.processes:
        return ["-", "-", "-"]
    if count == 1:
        return _cells(alone, alone)
    if count * alone.gb * 1e9 > free_bytes(resolve_device()):
        return ["do not fit", "-", f"{count * alone.gb:.1f}"]
    return _cells(time_processes(count, 1, arguments), alone)


def _cells(measured: Measured, alone: Measured) -> list[str]:
    ratio = measured.samples_per_second / alone.samples_per_second
    return [f"{measured.samples_per_second:.2f}", f"{ratio:.2f}", f"{measured.gb:.1f}"]


def time_processes(num_processes: int, pack_size: int, arguments: argparse.Namespace) -> Measured:
    """Returns what processes that train one pack each, all at the same time, come to."""
    context = multiprocessing.get_context("spawn")
    barrier, results = context.Barrier(num_processes), context.Queue()
    processes = [
        context.Process(target=_run_one, args=(pack_size, arguments, barrier, results)) for _ in range(num_processes)
    ]
    for process in processes:
        process.start()
    found = [_next_result(results, processes) for _ in processes]
    for process in processes:
        process.join()
    seconds, sizes = zip(*found, strict=True)
    return Measured(sum(pack_size * arguments.batch / each for each in seconds), sum(sizes))


def _next_result(results: Any, processes: list[Any]) -> tuple[float, float]:
    """Waits; a process that died, for want of memory perhaps, ends the measurement instead of stopping it for ever."""
    while results.empty():
        if any(process.exitcode for process in processes):
            for process in processes:
                process.terminate()
            raise SystemExit("a process ended before it was measured; see its message above")
        time.sleep(0.1)
    return results.get()


def _run_one(pack_size: int, arguments: argparse.Namespace, barrier: Any, results: Any) -> None:
    results.put(time_pack(pack_size, arguments, barrier))


def time_pack(size: int, arguments: argparse.Namespace, barrier: Any = None) -> tuple[float, float]:
    """Returns (median seconds per step, peak GB of this process) of a pack of `size` adapters."""
    accelerator = Accelerator(cpu=resolve_device().type == "cpu")
    device = accelerator.device
    training = TrainingConfig(
        num_steps=arguments.steps + WARM_UP_STEPS + 1,
        batch_size=arguments.batch,
        prior_weight=0.0,
        gradient_checkpointing=arguments.checkpointing,
    )
    model = ModelConfig(base=arguments.base, offline=True, quantization=arguments.quantization)
    base = find_base(model)
    unet = load_training_denoiser(base, model, training, device=device, dtype=resolve_dtype(arguments.dtype, device))
    config = TrainConfig(model=model, training=training)
    pack = attach_adapters(unet, [AdapterConfig(rank=arguments.rank)] * size, seeds=list(range(size)))
    members, cell = [], random_cell(config, base, device)
    for seed, adapter in enumerate(pack.adapters):
        member = Member(
            position=seed, run=RunFolder(Path("unwritten")), config=replace(config, seed=seed), subject=NOBODY
        )
        member.data, member.adapter = cell, adapter
        members.append(member)
    session = Session(
        accelerator=accelerator,
        model=AdaptedDenoiser(unet, pack, base.family.predict),
        members=members,
        optimizer=build_optimizer([(adapter, OptimizerConfig(lr=1e-3)) for adapter in pack.adapters], device),
        objective=base.family.objective(base, training, device),
    )
    clock = Clock(barrier)
    run_loop(session, clock, start_step=0)
    return clock.seconds_per_step(), _peak_gb(device)


def _peak_gb(device: torch.device) -> float:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e9
    unit = 1 if psutil.MACOS else 1024  # of ru_maxrss: bytes there, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e9


if __name__ == "__main__":
    main()
