"""The maker's checks for `delora-sd doctor`: packages, devices, disk, bases, photos, and one real training."""

import contextlib
import io
import os
import platform
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from importlib import import_module
from importlib.metadata import requires
from pathlib import Path

from delora_sd.cli.doctor import Check, Finding
from delora_sd.cli.memory import check_memory
from delora_sd.errors import UserError
from delora_sd.files.versions import package_version
from delora_sd.settings import DataConfig, DoctorConfig, GenerateConfig, ModelConfig, TrainConfig, TrainingConfig

MINIATURE = "miniature"

_EXTRAS = {
    "track": "training curves in TensorBoard or wandb",
    "cluster": "benchmarks on a Ray cluster",
    "maps": "FID and KID of images from semantic maps",
    "quantize": "frozen weights in 8 or 4 bits",
    "adamw8bit": "optimizer state in 8 bits (GPU)",
    "test": "the project's tests",
}
_GIB = 1 << 30
_LEAST_FREE_GIB = 2
"""A run with checkpoints and a few hundred images."""

_BASE_GIB = 5
"""What Stable Diffusion 1.5 takes in the hub's cache, with room to write."""

_SELF_TEST_STEPS = 2


def check_packages(config: DoctorConfig) -> list[Finding]:
    """Every requirement's version against its floor, and that the compiled ones import together."""
    from packaging.requirements import Requirement

    requirements = [Requirement(text) for text in requires("delora_sd") or []]
    own = [requirement for requirement in requirements if requirement.marker is None]
    problems = [problem for requirement in own if (problem := _problem(requirement))]
    found = ", ".join(
        f"{name} {package_version(name)}" for name in ("torch", "diffusers", "transformers", "accelerate", "peft")
    )
    advice = f"pip install {' '.join(repr(text) for text, _ in problems)}" if problems else ""
    listed = found if not problems else "; ".join(reason for _, reason in problems)
    findings = [
        Finding(topic="software", name="Python", state="ok", found=f"{platform.python_version()} at {sys.executable}"),
        Finding(topic="software", name="packages", state="broken" if problems else "ok", found=listed, advice=advice),
        _import_finding(
            "torchvision", "install torch and torchvision of one release together: see scripts/constraints.txt"
        ),
    ]
    return findings + [_extra_finding(name, requirements) for name in _EXTRAS]


def check_devices(config: DoctorConfig) -> list[Finding]:
    """The accelerator that will be used, else the CPU, and what precision the base will have there."""
    import torch

    from delora_sd.diffusion.parts import resolve_dtype

    cores = f"{os.cpu_count()} cores, {torch.get_num_threads()} threads, {_memory_gib():.0f} GiB memory"
    findings = [Finding(topic="devices", name="CPU", state="ok", found=f"{platform.machine()}, {cores}")]
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        dtype = str(resolve_dtype("auto", torch.device("cuda", index))).removeprefix("torch.")
        found = f"{facts.name}, {facts.total_memory / _GIB:.0f} GiB, base in {dtype}"
        findings.append(Finding(topic="devices", name=f"GPU {index}", state="ok", found=found))
    if torch.backends.mps.is_available():
        findings.append(Finding(topic="devices", name="Apple GPU", state="ok", found="mps"))
    if len(findings) == 1:
        advice = "fine for the miniature; for Stable Diffusion use a machine with a GPU of 8 GiB or more"
        if torch.version.cuda is None and shutil.which("nvidia-smi"):
            advice = "this torch was built without CUDA: pip install --force-reinstall torch torchvision"
        findings.append(
            Finding(topic="devices", name="GPU", state="absent", found="none that torch can use", advice=advice)
        )
    return findings


def check_disk(config: DoctorConfig) -> list[Finding]:
    """Room for runs here and for base models in the hub's cache."""
    from huggingface_hub import constants

    cache = Path(constants.HF_HUB_CACHE)
    models = len(list(cache.glob("models--*")))
    return [
        _room("room for runs", Path.cwd(), _LEAST_FREE_GIB, state="broken", note=""),
        _room("hub's cache", cache, _BASE_GIB, state="absent", note=f", {models} models cached"),
    ]


def check_bases(config: DoctorConfig) -> list[Finding]:
    """Which bases load without a network."""
    from delora_sd.diffusion.bases import SD15_ARCHITECTURE

    names = dict.fromkeys((MINIATURE, SD15_ARCHITECTURE, config.model.base))
    return [_base_finding(name, replace(config.model, base=name, offline=True)) for name in names]


def check_photos(config: DoctorConfig) -> list[Finding]:
    """Which subjects there are to train on."""
    findings = []
    for dataset in dict.fromkeys((MINIATURE, config.dataset)):
        state, advice = "ok", ""
        try:
            found = _count_subjects(dataset)
        except UserError as error:
            found, state = str(error).partition(";")[0], "broken" if dataset == MINIATURE else "absent"
            advice = (
                "python scripts/prepare/fetch_dreambooth.py, or use own photos: data.photos=FOLDER data.class_word=WORD"
            )
            advice = "install the project again: its bundled files are missing" if dataset == MINIATURE else advice
        findings.append(Finding(topic="photos", name=dataset, state=state, found=found, advice=advice))
    return findings


def check_by_doing(config: DoctorConfig) -> list[Finding]:
    """Trains an adapter on the miniature for two steps and generates one image with it."""
    if not config.self_test:
        return []
    began = time.monotonic()
    try:
        with tempfile.TemporaryDirectory(prefix="delora-doctor-") as folder, _quiet():
            changed = _train_and_generate(Path(folder))
    except Exception as error:
        found = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        advice = "bash scripts/test.sh shows which part fails"
        return [Finding(topic="self-test", name="train and generate", state="broken", found=found, advice=advice)]
    found = f"{_SELF_TEST_STEPS} steps and an image of {changed} bytes in {time.monotonic() - began:.0f} s"
    return [Finding(topic="self-test", name="train and generate", state="ok", found=found)]


CHECKS: list[Check] = [
    check_packages,
    check_devices,
    check_disk,
    check_bases,
    check_memory,
    check_photos,
    check_by_doing,
]


def _train_and_generate(folder: Path) -> int:
    """Returns the size of the image's file, bytes."""
    from delora_sd.data.subjects import subject_names
    from delora_sd.generation.generate import generate
    from delora_sd.training.recipe import train

    train(
        TrainConfig(
            output_dir=str(folder / "run"),
            model=ModelConfig(base=MINIATURE),
            data=DataConfig(dataset=MINIATURE, subject=subject_names(MINIATURE)[0]),
            training=TrainingConfig(num_steps=_SELF_TEST_STEPS, prior_weight=0.0),
        )
    )
    prompt = "a photo of {identifier} {class_word}"
    generate(GenerateConfig(run=str(folder / "run"), prompts=(prompt,), images_per_prompt=1, num_inference_steps=4))
    return next((folder / "run" / "images").rglob("*.png")).stat().st_size


@contextlib.contextmanager
def _quiet():
    """The self-test's own progress is not the doctor's report."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield


def _problem(requirement) -> tuple[str, str] | None:
    """Returns (requirement, what is wrong with it); None when it is met."""
    found = package_version(requirement.name)
    if found is None:
        return str(requirement), f"{requirement.name} is not installed"
    if not requirement.specifier.contains(found, prereleases=True):
        return str(requirement), f"{requirement.name} {found}, needed {requirement.specifier}"
    return None


def _extra_finding(extra: str, requirements: list) -> Finding:
    needed = [item for item in requirements if item.marker is not None and item.marker.evaluate({"extra": extra})]
    missing = [item.name for item in needed if package_version(item.name) is None]
    found = f"{_EXTRAS[extra]}: " + (f"without {', '.join(missing)}" if missing else "installed")
    advice = f"if wanted: pip install 'delora_sd[{extra}]'" if missing else ""
    return Finding(topic="software", name=f"[{extra}]", state="absent" if missing else "ok", found=found, advice=advice)


def _import_finding(module: str, advice: str) -> Finding:
    try:
        found = f"{import_module(module).__version__} works with this torch"
    except Exception as error:  # a torchvision for another torch fails with RuntimeError, OSError or ImportError
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"
        return Finding(topic="software", name=module, state="broken", found=reason, advice=advice)
    return Finding(topic="software", name=module, state="ok", found=found)


def _room(name: str, folder: Path, needed_gib: float, *, state: str, note: str) -> Finding:
    existing = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(existing).free / _GIB
    found = f"{folder}: {free:.0f} GiB free{note}"
    if free >= needed_gib:
        return Finding(topic="disk", name=name, state="ok", found=found)
    return Finding(topic="disk", name=name, state=state, found=found, advice=f"free {needed_gib:.0f} GiB, or move it")


def _base_finding(name: str, model: ModelConfig) -> Finding:
    from delora_sd.diffusion.bases import find_base

    try:
        base = find_base(model)
    except (UserError, OSError) as error:
        if name == MINIATURE:
            advice = "install the project again: its bundled files are missing"
            return Finding(topic="bases", name=name, state="broken", found=str(error), advice=advice)
        advice = f"go online once (about {_BASE_GIB} GiB), or give model.base=FOLDER; `{MINIATURE}` needs nothing"
        return Finding(topic="bases", name=name, state="absent", found="not on this machine", advice=advice)
    where = base.folder or "random weights, for tests of size and speed"
    return Finding(topic="bases", name=name, state="ok", found=f"{base.size_px} px, {base.prediction_type}, {where}")


def _count_subjects(dataset: str) -> str:
    from delora_sd.data.subjects import subject_names

    names = subject_names(dataset)
    return f"{len(names)} subjects: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}"


def _memory_gib() -> float:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / _GIB
