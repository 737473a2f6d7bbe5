"""`profile=true`: where the time of every cell went, and the arithmetic that nobody can leave out.

Cells write `profile.json`, seconds by stage and part (`delora_sd.stopwatch`). The benchmark's own `profile.json` holds
what turns a cell's settings into a floor: the operations of the networks and this machine's rate of a large product.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from delora_eval.benchmark.folder import BenchmarkFolder, profile_file
from delora_eval.benchmark.grid import Cell
from delora_eval.benchmark.run.cell.bench import Bench
from delora_sd.files.run_folder import read_json, write_json
from delora_sd.stopwatch import timing

if TYPE_CHECKING:
    import torch

    from delora_sd.diffusion.families.family import Base

SIDE_PX = {"cpu": 1024}
"""Side of the square product that tells the rate; on a GPU 8192."""


@contextmanager
def profiled(bench: Bench, stage: str, cells: Sequence[Cell]) -> Iterator[None]:
    """Inside, time is counted for the cells, in equal shares; a call that goes on adds to what was counted before."""
    if not bench.config.profile:
        yield
        return
    with timing() as watch:
        yield
    for cell in cells:
        file = profile_file(bench.folder.run(cell))
        stages = read_json(file) if file.exists() else {}
        known = stages.get(stage, {})
        own = {name: known.get(name, 0.0) + seconds / len(cells) for name, seconds in watch.seconds.items()}
        write_json(file, stages | {stage: known | own})


def write_floor(folder: BenchmarkFolder, cells: Sequence[Cell]) -> None:
    """Counts and measures once per benchmark what a floor is made of; nothing is trained here."""
    trained = next((cell.train for cell in cells if cell.train), None)
    if trained is None or folder.profile.exists():
        return
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import resolve_device, resolve_dtype

    base, device = find_base(trained.model), resolve_device()
    facts = {
        "device": device.type,
        "flops_per_second": matrix_rate(device, resolve_dtype(trained.model.dtype, device)),
        "unet_flops": unet_flops(base),
        "decoder_flops": decoder_flops(base),
    }
    write_json(folder.profile, facts)


def matrix_rate(device: "torch.device", dtype: "torch.dtype") -> float:
    """Returns the best rate of a large square product on the device, operations per second."""
    import torch

    side = SIDE_PX.get(device.type, 8192)
    factor = torch.randn(side, side, device=device, dtype=dtype)

    def seconds() -> float:
        began = time.perf_counter()
        (factor @ factor).flatten()[0].item()  # waits for the device
        return time.perf_counter() - began

    return 2 * side**3 / min(seconds() for _ in range(20))


def unet_flops(base: "Base") -> float:
    """Returns the operations of one sample's forward through the network that is trained."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from delora_sd.diffusion.cache import stack_conditions, whole_sizes
    from delora_sd.diffusion.parts import load_denoiser
    from delora_sd.training.memory.pack_size import random_condition

    denoiser = load_denoiser(base, device="meta", dtype=torch.float32)
    latents = torch.zeros(1, base.latent_channels, base.latent_side, base.latent_side, device="meta")
    conditions = stack_conditions(
        [random_condition(base, torch.device("meta"))], whole_sizes(base.size_px, base.size_px, 1)
    )
    with FlopCounterMode(display=False) as counter:
        base.family.predict(denoiser, latents, torch.zeros(1, device="meta"), conditions)
    return float(counter.get_total_flops())


def decoder_flops(base: "Base") -> float:
    """Returns the operations of one image's VAE decoding."""
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from delora_sd.diffusion.parts import load_vae

    vae = load_vae(base, device="meta", dtype=torch.float32)
    latents = torch.zeros(1, base.latent_channels, base.latent_side, base.latent_side, device="meta")
    with FlopCounterMode(display=False) as counter:
        base.family.decode_latents(latents, vae)
    return float(counter.get_total_flops())
