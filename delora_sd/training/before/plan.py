"""Everything that is decided, and refused, before a model loads."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin

from delora_sd.adapters.attach import check_layers, with_default_layers
from delora_sd.data.masks import load_square_mask
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser, resolve_device, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.generation.class_images import NUM_INFERENCE_STEPS as CLASS_IMAGE_STEPS
from delora_sd.settings import ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.before.door import check_pack, check_prompts
from delora_sd.training.before.identity import find_same_masks, find_same_prompts, load_same_subject, recognise_base
from delora_sd.training.loop.member import Member


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pack that is about to train."""

    members: list[Member]
    base: Base
    accelerator: Accelerator
    dtype: torch.dtype
    """Of the frozen base."""
    size_px: int

    @property
    def model(self) -> ModelConfig:
        """Of every member: nothing in it is free within a pack."""
        return self.members[0].config.model

    @property
    def training(self) -> TrainingConfig:
        """Of every member, but for the prior weight and the number of class images."""
        return self.members[0].config.training


def run_folder(config: TrainConfig) -> RunFolder:
    return RunFolder(Path(config.output_dir).expanduser())


def make_plan(configs: list[TrainConfig]) -> Plan:
    """Returns the pack of these runs; what no model is needed for is checked here.

    Raises:
        UserError: runs that cannot share a pack, photos, prompts or layers that cannot work, or no base.
    """
    check_pack(configs)
    members = []
    for position, config in enumerate(configs):
        run = run_folder(config)
        subject = load_same_subject(run, config)
        check_prompts(config, subject)
        members.append(
            Member(
                position=position,
                run=run,
                config=config,
                subject=subject,
                prompts=find_same_prompts(run, config, subject),
                masks=find_same_masks(run, config, subject),
            )
        )
    model = configs[0].model
    base = find_base(model)
    for member in members:
        recognise_base(member.run, member.config, base)
        for photo, mask in zip(member.subject.photos, member.masks, strict=bool(member.masks)):
            load_square_mask(photo, mask, base.latent_side)
    for steps in (CLASS_IMAGE_STEPS, configs[0].preview.num_inference_steps):
        base.family.solver(base, steps, device="cpu")
    shapes = load_denoiser(base, device="meta", dtype=torch.float32)
    for member in members:
        adapter = with_default_layers(member.config.adapter, base.family)
        member.config = replace(member.config, adapter=adapter)
        check_layers(adapter, shapes)
    accelerator = make_accelerator(configs[0], members[0].run)
    return Plan(
        members=members,
        base=base,
        accelerator=accelerator,
        dtype=resolve_dtype(model.dtype, accelerator.device),
        size_px=model.size_px or base.size_px,
    )


def make_accelerator(config: TrainConfig, run: RunFolder) -> Accelerator:
    """Returns what runs a training's processes.

    Mixed precision is ours (a base in bf16 or fp16, adapters in fp32), so accelerate's is off.
    """
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
