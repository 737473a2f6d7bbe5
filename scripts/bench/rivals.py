#!/usr/bin/env python
"""Us beside the tools people could pick instead: samples a second, peak memory, time to a finished adapter. One table.

    python scripts/bench/rivals.py                                                   # the miniature, this machine
    python scripts/bench/rivals.py --base sd15-architecture --dtype bf16 --packs 1 8 30           # a GPU, 512 px
    python scripts/bench/rivals.py --diffusers-script ~/diffusers/examples/dreambooth/train_dreambooth_lora.py

Same photos, base, steps, batch, rank, layers and precision for all; no prior preservation, no class images. Each runs
in a process of its own, one after the other, and ours again at the end: what the two runs of ours differ by is what the
machine did meanwhile. peft and LyCORIS run in the loop that their examples show: the photo and its caption are encoded
at every step. Samples a second leave the first steps out; "finished" is all of it, from the start of the process to
the file, for each adapter.
"""

import argparse
import multiprocessing
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from itertools import pairwise
from pathlib import Path

WARM_UP = 3
IDENTIFIER = "qwe"
TARGETS = ("to_q", "to_k", "to_v", "to_out.0")


@dataclass(frozen=True, kw_only=True)
class Job:
    """What every contestant does."""

    base: str
    dtype: str
    photos: tuple[str, ...]
    class_word: str
    steps: int
    batch: int
    rank: int
    script: str | None
    """diffusers' own."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    samples_per_second: float | None
    """None: the tool does not say, and is not asked."""
    seconds: float
    """To one finished adapter."""
    peak_gb: float
    note: str = ""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", default="miniature")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--photos", type=Path, help="a folder of photos; none: the bundled miniature's teapot")
    parser.add_argument("--class-word", default="teapot")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--packs", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--diffusers-script", help="train_dreambooth_lora.py of a diffusers checkout")
    parser.add_argument("--only", nargs="*", default=[], help="names of contestants")
    arguments = parser.parse_args()
    photos = find_photos(arguments.photos)
    job = Job(
        base=arguments.base,
        dtype=arguments.dtype,
        photos=tuple(map(str, photos)),
        class_word=arguments.class_word,
        steps=arguments.steps,
        batch=arguments.batch,
        rank=arguments.rank,
        script=arguments.diffusers_script,
    )
    print(f"{_versions()}; {job.base}, {len(photos)} photos, {job.steps} steps, batch {job.batch}, rank {job.rank}\n")
    print("| | samples/s | finished adapter, s | peak, GB | |\n| --- | ---: | ---: | ---: | --- |")
    entries = [*((f"ours, DeLoRA, pack of {size}", size) for size in arguments.packs)]
    names = [name for name, _ in entries] + [*RIVALS] + ["ours, DeLoRA, alone again"]
    sizes = dict(entries) | {"ours, DeLoRA, alone again": 1}
    for name in names:
        if not arguments.only or any(word in name for word in arguments.only):
            print(_row(name, in_a_process(job, name, sizes.get(name))), flush=True)


def find_photos(folder: Path | None) -> list[Path]:
    from delora_sd.data.subjects import load_subject
    from delora_sd.settings import DataConfig

    if folder is None:
        return list(load_subject(DataConfig(dataset="miniature", subject="teapot")).photos)
    return sorted(file for file in folder.iterdir() if file.suffix.lower() in (".jpg", ".jpeg", ".png", ".webp"))


def train_ours(job: Job, folder: Path, pack: int) -> Cost:
    """`delora-sd train`, or a pack of it: the same subject with several seeds."""
    from delora_sd.files.run_folder import RunFolder
    from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, TrainConfig, TrainingConfig
    from delora_sd.training.recipe import train_pack

    photos = folder / "photos"
    photos.mkdir()
    for file in map(Path, job.photos):
        (photos / file.name).symlink_to(file.resolve())
    began = time.perf_counter()
    configs = [
        TrainConfig(
            output_dir=str(folder / f"run{seed}"),
            seed=seed,
            model=ModelConfig(base=job.base, dtype=job.dtype, offline=True),
            data=DataConfig(photos=str(photos), class_word=job.class_word, identifier=IDENTIFIER),
            adapter=AdapterConfig(rank=job.rank, target_modules=TARGETS),
            training=TrainingConfig(
                num_steps=job.steps, batch_size=job.batch, prior_weight=0.0, log_every=1, checkpoint_every=job.steps
            ),
        )
        for seed in range(pack)
    ]
    runs = [result.run for result in train_pack(configs)]
    seconds = time.perf_counter() - began
    speeds = [event["images_per_second"] for event in RunFolder(runs[0].path).read_events() if "loss" in event]
    return Cost(
        samples_per_second=statistics.median(speeds[WARM_UP:]),
        seconds=seconds / pack,
        peak_gb=_peak_gb(),
        note="with a checkpoint, two exports and their check",
    )


def train_plainly(job: Job, folder: Path, attach: Callable, save: Callable) -> Cost:
    """The loop of the examples: encode a photo and its caption, add noise, predict, step.

    Args:
        attach: (unet, rank) -> (whatever saves it, parameters).
    """
    import torch

    from delora_sd.data.photos import load_square, stack_squares
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.cache import cast_conditions, stack_conditions, whole_sizes
    from delora_sd.diffusion.parts import load_denoiser, load_text, load_vae, resolve_device, resolve_dtype
    from delora_sd.settings import ModelConfig, TrainingConfig

    began = time.perf_counter()
    generator = torch.manual_seed(0)
    base, device = find_base(ModelConfig(base=job.base, offline=True)), resolve_device()
    family, dtype = base.family, resolve_dtype(job.dtype, device)
    unet = load_denoiser(base, device=device, dtype=dtype).requires_grad_(False)
    vae, text = (load(base, device=device, dtype=dtype) for load in (load_vae, load_text))
    objective = family.objective(base, TrainingConfig(), device)
    attached, parameters = attach(unet, job.rank)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=1e-2)
    photos, _ = stack_squares([load_square(Path(file), base.size_px) for file in job.photos])
    caption, ends = f"a photo of {IDENTIFIER} {job.class_word}", []
    for step in range(job.steps):
        chosen = photos[[(step * job.batch + place) % len(photos) for place in range(job.batch)]]
        with torch.no_grad():
            mean, deviation = family.encode_images(chosen.to(device, vae.dtype), vae)
            latents = (mean + deviation * torch.randn_like(mean)).float()
            encoded = family.encode_prompts([caption] * job.batch, text)
            conditions = cast_conditions(
                stack_conditions(encoded, whole_sizes(base.size_px, base.size_px, job.batch)), dtype
            )
        noise, times = torch.randn_like(latents), objective.draw_times(job.batch, generator).to(device)
        noisy, target = (make(latents, noise, times) for make in (objective.noisy, objective.target))
        predicted = family.predict(unet, noisy.to(dtype), times, conditions)
        loss = torch.nn.functional.mse_loss(predicted.float(), target)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        loss.item()
        ends.append(time.perf_counter())
    save(attached, folder)
    steps = [later - earlier for earlier, later in pairwise(ends)][WARM_UP - 1 :]
    speed = job.batch / statistics.median(steps)
    return Cost(samples_per_second=speed, seconds=time.perf_counter() - began, peak_gb=_peak_gb())


def train_peft(job: Job, folder: Path, *, kind: str) -> Cost:
    """peft's LoRA, DoRA or DeLoRA injected into the UNet, as its examples do."""
    from peft import DeloraConfig, LoraConfig, get_peft_model

    def attach(unet, rank: int):
        shared = {"r": rank, "target_modules": list(TARGETS)}
        lora = {"lora_alpha": 2 * rank, "use_dora": kind == "dora"}
        config = DeloraConfig(**shared) if kind == "delora" else LoraConfig(**shared, **lora)
        model = get_peft_model(unet, config)
        return model, [parameter for parameter in model.parameters() if parameter.requires_grad]

    return train_plainly(job, folder, attach, lambda model, path: model.save_pretrained(path / "adapter"))


def train_lycoris(job: Job, folder: Path, *, algorithm: str) -> Cost:
    """LyCORIS' wrapper around the attention layers, its kernels and its own file."""
    from lycoris import LycorisNetwork, create_lycoris

    LycorisNetwork.apply_preset({"enable_conv": False, "target_module": [], "target_name": [r".*attn[12]\.to_.*"]})

    def attach(unet, rank: int):
        network = create_lycoris(unet, 1.0, linear_dim=rank, linear_alpha=rank, algo=algorithm)
        network.apply_to()
        network.to(next(unet.parameters()).device)
        parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
        if not parameters:
            raise RuntimeError("LyCORIS found no layer")
        return network, parameters

    def save(network, path: Path) -> None:
        network.save_weights(str(path / "adapter.safetensors"), None, {})

    return train_plainly(job, folder, attach, save)


def train_diffusers(job: Job, folder: Path) -> Cost:
    """diffusers' public script, whole, in its own process: it wants a folder of photos and one of the base."""
    from delora_sd.diffusion.bases import find_base
    from delora_sd.settings import ModelConfig

    if job.script is None:
        raise RuntimeError("give --diffusers-script")
    photos = folder / "photos"
    photos.mkdir()
    for file in map(Path, job.photos):
        (photos / file.name).symlink_to(file.resolve())
    base = find_base(ModelConfig(base=job.base, offline=True))
    if base.folder is None:
        raise RuntimeError("random weights have no folder that another tool could read")
    options = {
        "pretrained_model_name_or_path": base.folder,
        "instance_data_dir": photos,
        "instance_prompt": f"a photo of {IDENTIFIER} {job.class_word}",
        "output_dir": folder / "out",
        "resolution": base.size_px,
        "train_batch_size": job.batch,
        "max_train_steps": job.steps,
        "checkpointing_steps": job.steps + 1,
        "rank": job.rank,
        "learning_rate": 1e-4,
        "lr_scheduler": "constant",
        "mixed_precision": {"bf16": "bf16", "fp16": "fp16"}.get(job.dtype, "no"),
    }
    command = [sys.executable, job.script, *(f"--{name}={value}" for name, value in options.items())]
    began = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    if done.returncode or not list((folder / "out").glob("*.safetensors")):
        raise RuntimeError((done.stderr.strip() or "no adapter was written").splitlines()[-1])
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1e6
    return Cost(samples_per_second=None, seconds=seconds, peak_gb=peak, note="memory of the machine, not of a GPU")


RIVALS: dict[str, tuple[Callable[..., Cost], dict]] = {
    "peft, LoRA": (train_peft, {"kind": "lora"}),
    "peft, DoRA": (train_peft, {"kind": "dora"}),
    "peft, DeLoRA": (train_peft, {"kind": "delora"}),
    "LyCORIS, LoRA": (train_lycoris, {"algorithm": "lora"}),
    "LyCORIS, LoKr": (train_lycoris, {"algorithm": "lokr"}),
    "diffusers' script, LoRA": (train_diffusers, {}),
}


def in_a_process(job: Job, name: str, pack: int | None) -> Cost | str:
    """Returns the cost, or why there is none: one that fails takes no other along."""
    context = multiprocessing.get_context("spawn")
    receive, send = context.Pipe(duplex=False)
    process = context.Process(target=_work, args=(job, name, pack, send))
    process.start()
    send.close()
    try:
        found = receive.recv()
    except EOFError:
        found = "the process died: not enough memory, perhaps"
    process.join()
    return found


def _work(job: Job, name: str, pack: int | None, send) -> None:
    os.environ.setdefault("DIFFUSERS_VERBOSITY", "error")
    with tempfile.TemporaryDirectory() as folder:
        try:
            if pack is not None:
                found = train_ours(job, Path(folder), pack)
            else:
                work, options = RIVALS[name]
                found = work(job, Path(folder), **options)
        except Exception as error:  # whatever another library raises is a line of the table
            found = f"{type(error).__name__}: {' '.join(str(error).split())[:100]}"
    send.send(found)


def _row(name: str, found: Cost | str) -> str:
    if isinstance(found, str):
        return f"| {name} | – | – | – | {found} |"
    speed = "–" if found.samples_per_second is None else f"{found.samples_per_second:.2f}"
    return f"| {name} | {speed} | {found.seconds:.1f} | {found.peak_gb:.2f} | {found.note} |"


def _peak_gb() -> float:
    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e9
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1e9 if sys.platform == "darwin" else 1e6)


def _versions() -> str:
    from delora_sd import __version__
    from delora_sd.training.record.manifest import device_name

    found = {"delora_sd": __version__}
    for package in ("torch", "diffusers", "peft", "lycoris-lora"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return f"{device_name()}; " + ", ".join(f"{name} {value}" for name, value in found.items())


if __name__ == "__main__":
    main()
