"""Everything that is decided, and refused, before a model loads."""

from dataclasses import dataclass

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from delora_sd.adapters.attach import check_layers
from delora_sd.data.subjects import Subject
from delora_sd.diffusion.bases import Base, find_base
from delora_sd.diffusion.parts import load_unet, resolve_device, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.generation.class_images import NUM_INFERENCE_STEPS as CLASS_IMAGE_STEPS
from delora_sd.generation.solver import build_solver
from delora_sd.settings import TrainConfig
from delora_sd.training.door import check_pack, check_prompts
from delora_sd.training.identity import load_same_subject, recognise_base


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pack that is about to train; the lists run in parallel, one entry per adapter."""

    runs: list[RunFolder]
    configs: list[TrainConfig]
    subjects: list[Subject]
    base: Base
    accelerator: Accelerator
    dtype: torch.dtype
    """Of the frozen base."""
    size_px: int


def make_plan(runs: list[RunFolder], configs: list[TrainConfig]) -> Plan:
    check_pack(configs)
    subjects = [load_same_subject(run, config) for run, config in zip(runs, configs, strict=True)]
    for config, subject in zip(configs, subjects, strict=True):
        check_prompts(config, subject)
    model = configs[0].model
    base = find_base(model)
    for run, config in zip(runs, configs, strict=True):
        recognise_base(run, config, base)
    for steps in (CLASS_IMAGE_STEPS, configs[0].preview.num_inference_steps):
        build_solver(base.schedule, steps)
    shapes = load_unet(base, device="meta", dtype=torch.float32)
    for config in configs:
        check_layers(config.adapter, shapes)
    accelerator = _accelerator(configs[0], runs[0])
    return Plan(
        runs=runs,
        configs=configs,
        subjects=subjects,
        base=base,
        accelerator=accelerator,
        dtype=resolve_dtype(model.dtype, accelerator.device),
        size_px=model.size_px or base.size_px,
    )


def _accelerator(config: TrainConfig, run: RunFolder) -> Accelerator:
    """Mixed precision is ours (a base in bf16 or fp16, adapters in fp32), so accelerate's is off."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = config.training.allow_tf32
        torch.backends.cudnn.allow_tf32 = config.training.allow_tf32
    tracker = config.training.tracker
    accelerator = Accelerator(
        cpu=resolve_device().type == "cpu",  # or several CPU processes would each believe to be alone
        mixed_precision="no",
        gradient_accumulation_plugin=GradientAccumulationPlugin(num_steps=1),  # ours; or the environment would decide
        log_with=None if tracker == "none" else tracker,
        project_dir=run.path,
    )
    shares = accelerator.num_processes * config.training.gradient_accumulation
    if config.training.batch_size % shares:
        raise UserError(
            f"training.batch_size: {config.training.batch_size} photos per step cannot be shared by "
            f"{accelerator.num_processes} processes x {config.training.gradient_accumulation} accumulation parts; "
            f"use a multiple of {shares}"
        )
    if tracker != "none":
        accelerator.init_trackers("delora_sd")
    return accelerator
