"""What a pack is made from, found, compared with what each run was begun with, and refused before a model loads."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor

from delora_sd.adapters.attach import check_layers, with_default_layers
from delora_sd.config.deciding import read_run_settings
from delora_sd.config.load import flatten, to_yaml
from delora_sd.config.overlay import with_settings
from delora_sd.data.buckets import Shape, bucket_shapes, load_shape, shape_of_photo
from delora_sd.data.captions import photo_prompts
from delora_sd.data.held_out import find_run_subject
from delora_sd.data.masks import find_masks, load_square_mask
from delora_sd.data.photos import Square, open_photo
from delora_sd.data.recorded import recognise_subject
from delora_sd.data.subjects import MINIATURE, Subject
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser, resolve_device, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.files.contents import check_base, hash_file, hash_file_once
from delora_sd.files.run_folder import RunFolder, write_text
from delora_sd.generation.class_images import NUM_INFERENCE_STEPS as CLASS_IMAGE_STEPS
from delora_sd.settings import DataConfig, ModelConfig, TrainConfig, TrainingConfig
from delora_sd.training.before.door import PLACES, check_pack, check_templates, resolve_places, run_folder
from delora_sd.training.loop.member import Member

_ADVICE = "bring back what it was begun with, or use another output_dir"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """A pack that is about to train."""

    members: list[Member]
    base: Base
    accelerator: Accelerator
    dtype: torch.dtype
    """Of the frozen base."""
    size_px: int
    photos: dict[Path, Square]
    """Every trained photo, decoded once for all members; {} again as soon as the latents are cached."""
    shapes: list[Shape]
    """That photos can be cut to with `data.buckets`: 64 px apart for SDXL at 1024 px."""

    @property
    def model(self) -> ModelConfig:
        """Of every member: nothing in it is free within a pack."""
        return self.members[0].config.model

    @property
    def training(self) -> TrainingConfig:
        """Of every member, but for the prior weight and the number of class images."""
        return self.members[0].config.training


def make_plan(configs: list[TrainConfig]) -> Plan:
    """Returns the pack of these runs; what no model is needed for is checked here.

    Raises:
        UserError: runs that cannot share a pack, photos, prompts or layers that cannot work, or no base.
    """
    check_pack(configs)
    members = []
    for position, config in enumerate(configs):
        run = run_folder(config)
        subject = find_same_subject(run, config)
        check_templates(config, subject.class_word)
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
    _refuse_distilled(base, model)
    for member in members:
        recognise_base(member.run, member.config, base)
        if member.config.data.buckets and not base.family.knows_shapes:
            raise UserError(
                f"data.buckets=true: {base.family.title} was trained on squares; leave it out, or use a base of "
                "another family"
            )
        member.inside = _load_masks(member, base.latent_side)
    size_px = model.size_px or base.size_px
    buckets = bucket_shapes(size_px, max(base.smallest_px, size_px // 16))
    is_bucketed = configs[0].data.buckets  # then it is the only member
    photos = _load_photos(members, buckets if is_bucketed else [(size_px, size_px)])
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
        size_px=size_px,
        photos=photos,
        shapes=buckets,
    )


def _load_photos(members: list[Member], shapes: list[Shape]) -> dict[Path, Square]:
    """Returns the trained photos as training sees them; those that are only held out are decoded to see that they can.

    8 bits a channel: 0.8 MB for a photo at 512 px.
    """
    trained = dict.fromkeys(photo for member in members for photo in member.subject.photos)
    for photo in sorted({photo for member in members for photo in member.subject.held_out} - trained.keys()):
        open_photo(photo)
    return {
        photo: load_shape(photo, shapes[0] if len(shapes) == 1 else shape_of_photo(photo, shapes)) for photo in trained
    }


def _load_masks(member: Member, side: int) -> Tensor | None:
    """Returns how much of each cell of each photo's latent is the subject, (photos, side, side); None without masks."""
    if not member.masks:
        return None
    pairs = zip(member.subject.photos, member.masks, strict=True)
    return torch.stack([torch.from_numpy(load_square_mask(photo, mask, side)) for photo, mask in pairs])


def _refuse_distilled(base: Base, model: ModelConfig) -> None:
    if base.is_distilled and not model.allow_distilled:
        raise UserError(
            f"model.base={base.name} was distilled to draw in few steps, which training by the usual loss undoes; "
            f"train on the {base.family.title} it was made from and generate with this one, or set "
            "model.allow_distilled=true"
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


def find_same_subject(run: RunFolder, config: TrainConfig) -> Subject:
    """Returns the subject of the settings, as the run knows it when it has begun.

    Raises:
        UserError: photos that cannot be used, or the run was begun with others.
    """
    return recognise_subject(run, find_run_subject(config), advice=_ADVICE)


def find_same_masks(run: RunFolder, config: TrainConfig, subject: Subject) -> tuple[Path, ...]:
    """Returns each trained photo's mask, as the run was begun with; () when the loss counts every place alike.

    Raises:
        UserError: a photo without a mask, or the run was begun with others.
    """
    if config.training.outside_weight == 1:
        return ()
    masks = find_masks(subject.photos)
    recorded = [contents for _, contents in sorted(run.read_manifest().get("masks", {}).items())]
    for photo, mask, before in zip(subject.photos, masks, recorded, strict=False):
        if hash_file_once(mask) != before:
            raise UserError(f"{mask}: not the mask of {photo.name} that {run.path} was begun with; {_ADVICE}")
    return masks


def find_same_prompts(run: RunFolder, config: TrainConfig, subject: Subject) -> tuple[str, ...]:
    """Returns what each photo is trained with, or the one text for all, as the run was begun with.

    Raises:
        UserError: captions that cannot be used, or the run was begun with others.
    """
    prompts = photo_prompts(config.data, subject)
    recorded = [text for _, text in sorted(run.read_manifest().get("captions", {}).items())]
    for photo, now, before in zip(subject.photos, prompts, recorded, strict=False):
        if now != before:
            raise UserError(f"caption of {photo.name}: '{now}', but {run.path} was begun with '{before}'; {_ADVICE}")
    return prompts


def recognise_base(run: RunFolder, config: TrainConfig, base: Base) -> None:
    """Raises UserError when the run was begun on a base, or with a PEFT configuration, of other contents."""
    check_base(run, name=base.name, fingerprint=base.fingerprint, advice=_ADVICE)
    known, file = run.read_manifest().get("peft_config"), config.adapter.peft_config
    if known and file is not None and hash_file(Path(file)) != known:
        raise UserError(f"adapter.peft_config={file}: not the file that {run.path} was begun with; {_ADVICE}")


def recognise_finished(run: RunFolder, config: TrainConfig) -> None:
    """Compares what a finished run was made from, as far as it is still there, and remembers where it moved to.

    Raises:
        UserError: other photos or another base than the run was made from.
    """
    before = resolve_places(read_run_settings(run.config))
    if config.data != before.data or _photo_folder(config.data).is_dir():
        subject = find_same_subject(run, config)
        find_same_masks(run, config, subject)
        find_same_prompts(run, config, subject)
    try:
        base = find_base(replace(config.model, offline=True))  # nothing is fetched to say that nothing is left to do
    except UserError:
        if config.model.base != before.model.base:
            raise
    else:
        recognise_base(run, config, base)
    old, new = flatten(before), flatten(config)
    if moved := {key: new[key] for key in PLACES if new[key] != old[key]}:
        with run.lock():
            write_text(run.config, to_yaml(with_settings(before, moved, source="places")))


def _photo_folder(data: DataConfig) -> Path:
    if data.photos is not None:
        return Path(data.photos)
    if data.dataset == MINIATURE:
        from delora_sd.miniature import SUBJECTS_FOLDER

        return SUBJECTS_FOLDER
    return Path(data.dataset) / (data.subject or "")
