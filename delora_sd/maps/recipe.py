"""The whole story of a training on maps, top to bottom: maps and photos in, control encoder and adapter out.

The loop, its checkpoints and its packs are those of subjects; one run is a pack of one.
"""

import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from delora_sd.adapters.attach import Attached, check_layers
from delora_sd.config.load import to_yaml
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.family import Base
from delora_sd.diffusion.parts import load_denoiser, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.files.contents import check_base
from delora_sd.files.run_folder import RunFolder, read_json, read_lines, write_json, write_lines, write_text
from delora_sd.maps.controlled import CONTROL, ControlledAdapter, ControlledUNet, attach_control
from delora_sd.maps.dataset import MapSet, check_sizes, find_map_set
from delora_sd.maps.door import (
    absolute_places,
    adapter_config,
    check_map_config,
    check_map_pack,
    check_same_run,
    loop_config,
    num_steps,
)
from delora_sd.maps.encoder import CONTROL_FOLDER, check_can_control, create_encoder
from delora_sd.maps.settings import MapTrainConfig
from delora_sd.maps.store import StorePlan, ensure_store, store_plan
from delora_sd.progress import ProgressDisplay
from delora_sd.signals import Stopped
from delora_sd.training.before.door import check_pack
from delora_sd.training.before.plan import make_accelerator
from delora_sd.training.loop.loop import Session, run_loop
from delora_sd.training.loop.member import Member
from delora_sd.training.loop.objective import load_training_denoiser
from delora_sd.training.loop.optimization import build_optimizer
from delora_sd.training.recipe import FP16_LOSS_SCALE
from delora_sd.training.record.checkpoints import last_common_step, load_checkpoint
from delora_sd.training.record.manifest import describe_making
from delora_sd.training.record.reporter import Reporter

_ADVICE = "bring back what it was begun with, or use another output_dir"


@dataclass(frozen=True, kw_only=True)
class MapRun:
    """One run of a pack before it trains."""

    config: MapTrainConfig
    """With absolute places."""
    member: Member


def train_maps(config: MapTrainConfig) -> RunFolder:
    """Trains one encoder and adapter and returns their run folder; the same call again resumes.

    Raises:
        UserError: settings or maps that cannot work, a changed config, or a loss that was not finite.
    """
    (run,) = train_map_pack([config])
    if failure := run.read_failure():
        raise UserError(f"{run.path}: {failure['reason']}")
    return run


def train_map_pack(configs: list[MapTrainConfig]) -> list[RunFolder]:
    """Trains several runs over the same maps in one batch, each as if alone; finished ones are skipped.

    Raises:
        UserError: as `train_maps`; a loss that was not finite is left in the run's failed.json.
        Stopped: SIGTERM or Ctrl-C came while it trained; the checkpoint of the last step is written.
    """
    for config in configs:
        check_map_config(config)
    check_map_pack(configs)
    map_set = find_map_set(configs[0].data, "train")
    runs = [_map_run(config, map_set, position) for position, config in enumerate(configs)]
    check_pack([run.member.config for run in runs])
    unfinished = [run for run in runs if not is_map_trained(run.member.run, run.member.config.training.num_steps)]
    if unfinished:
        for position, run in enumerate(unfinished):
            run.member.position = position
        _train_unfinished(unfinished, map_set)
    return [run.member.run for run in runs]


def is_map_trained(run: RunFolder, steps: int) -> bool:
    """True when the run holds the encoder and adapter of a training of so many steps."""
    return (run.path / CONTROL_FOLDER).is_dir() and run.read_manifest().get("finished_step") == steps


def _map_run(config: MapTrainConfig, map_set: MapSet, position: int) -> MapRun:
    resolved = absolute_places(replace(config, adapter=adapter_config(config), targets="named"))
    trained = loop_config(resolved, num_steps(resolved, len(map_set.pairs)))
    run = RunFolder(Path(resolved.output_dir).expanduser())
    check_same_run(run, resolved)
    return MapRun(config=resolved, member=Member(position=position, run=run, config=trained))


def _train_unfinished(runs: list[MapRun], map_set: MapSet) -> None:
    members = [run.member for run in runs]
    accelerator = make_accelerator(members[0].config, members[0].run)
    with ExitStack() as locks:
        if accelerator.is_main_process:
            for member in members:
                locks.enter_context(member.run.lock())
        stop = _train(runs, map_set, accelerator)
        accelerator.wait_for_everyone()
    accelerator.end_training()
    if stop is not None:
        raise stop


def _train(runs: list[MapRun], map_set: MapSet, accelerator: Accelerator) -> Stopped | None:
    """Caches, attaches, resumes, loops, saves; returns the stop when it was asked to."""
    began, members, first = time.monotonic(), [run.member for run in runs], runs[0].config
    base = _check_base(runs)
    dtype = resolve_dtype(first.model.dtype, accelerator.device)
    plan = store_plan(
        first.data, map_set, base, size_px=first.model.size_px or base.size_px, device=accelerator.device, dtype=dtype
    )
    contents = _prepare_data(plan, members, accelerator)
    unet = load_training_denoiser(base, first.model, first.training, device=accelerator.device, dtype=dtype)
    pack = _attach(unet, runs, map_set, base)
    pairs = [(each.adapter, each.config.optimizer) for each in members]
    optimizer = build_optimizer(pairs, accelerator.device, highest_rates={CONTROL: first.control.max_lr})
    start_step = last_common_step([member.run for member in members])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _open_run_folders(runs, map_set, base, contents, start_step)
    _restore(members, optimizer, start_step, dtype)
    encoders = [each.adapter.encoder for each in members]
    session = Session(
        accelerator=accelerator,
        model=accelerator.prepare_model(ControlledUNet(unet, pack, base.family.predict, encoders)),
        members=members,
        optimizer=optimizer,
        objective=base.family.objective(base, first.training, accelerator.device),
    )
    with _progress(members, start_step, accelerator) as progress:
        reporter = Reporter(session=session, pack=pack, progress=progress, render_preview=_no_preview)
        with reporter.stopping_on_signals():
            reporter.catch_up(start_step)
            run_loop(session, reporter, start_step=start_step)
    if accelerator.is_main_process and not reporter.stop_requested:
        _finish(members, seconds=time.monotonic() - began)
    return reporter.stop()


def _check_base(runs: list[MapRun]) -> Base:
    """Returns the base. Raises UserError: another than a run was begun with, or layers it lacks."""
    base = find_base(runs[0].config.model)
    shapes = load_denoiser(base, device="meta", dtype=torch.float32)
    check_can_control(base, shapes)
    for run in runs:
        check_base(run.member.run, name=base.name, fingerprint=base.fingerprint, advice=_ADVICE)
        if not run.config.control.alone:
            check_layers(run.member.config.adapter, shapes)
    return base


def _prepare_data(plan: StorePlan, members: list[Member], accelerator: Accelerator) -> str:
    """Gives every member the same data; returns the hash of what it was made from."""
    with accelerator.main_process_first():
        if not plan.folder.exists():
            check_sizes(plan.map_set.pairs)
        data, contents = ensure_store(plan)
    for member in members:
        member.data = data
        known = member.run.read_manifest().get("maps", {}).get("contents", contents)
        if known != contents:
            raise UserError(f"{member.run.path} was begun with other maps, photos or captions; {_ADVICE}")
    return contents


def _attach(unet: nn.Module, runs: list[MapRun], map_set: MapSet, base: Base) -> Attached:
    """Puts a fresh encoder and adapter of every run on the UNet."""
    control, seeds = runs[0].config.control, [run.config.seed for run in runs]
    encoders = [create_encoder(control, map_set.palette, base, unet, seed=seed).to(unet.device) for seed in seeds]
    configs = [run.member.config.adapter for run in runs]
    pack = attach_control(unet, configs, encoders, seeds=seeds, alone=control.alone)
    adapters = [None] * len(runs) if control.alone else list(pack.adapters)
    for run, adapter, encoder in zip(runs, adapters, encoders, strict=True):
        run.member.adapter = ControlledAdapter(run.member.config.adapter, adapter, encoder, is_trained=control.trained)
    return pack


def _open_run_folders(runs: list[MapRun], map_set: MapSet, base: Base, contents: str, start_step: int) -> None:
    """Writes settings and manifest; events later than the step training resumes from are forgotten."""
    for run in runs:
        folder, adapter = run.member.run, run.member.adapter
        folder.failure.unlink(missing_ok=True)
        write_text(folder.config, to_yaml(run.config))
        control = sum(parameter.numel() for parameter in adapter.encoder.parameters())
        write_json(
            folder.manifest,
            describe_making(run.member.config, base)
            | {
                "maps": {"pairs": len(map_set.pairs), "contents": contents, "classes": map_set.palette.num_labels},
                "trainable_parameters": adapter.num_parameters(),
                "control_parameters": control,
            },
        )
        if folder.events.exists():
            write_lines(folder.events, [event for event in read_lines(folder.events) if event["step"] <= start_step])


def _restore(members: list[Member], optimizer: torch.optim.Optimizer, start_step: int, dtype: torch.dtype) -> None:
    for member in members:
        if start_step:
            member.loss_scale = load_checkpoint(member.run, start_step, member.adapter, optimizer)
        elif dtype == torch.float16:
            member.loss_scale = FP16_LOSS_SCALE


def _progress(members: list[Member], start_step: int, accelerator: Accelerator) -> ProgressDisplay:
    title = members[0].run.path.name if len(members) == 1 else f"{len(members)} encoders and adapters"
    total = members[0].config.training.num_steps
    return ProgressDisplay(title, total=total, unit="steps", done=start_step, is_shown=accelerator.is_main_process)


def _no_preview(member: Member, step: int) -> None:
    """Maps have no previews: `delora-sd generate RUN step=N maps=...` draws from a checkpoint."""


def _finish(members: list[Member], *, seconds: float) -> None:
    """Writes encoder and adapter, and last of all the mark that the run is complete."""
    for member in members:
        if member.left is not None:
            continue
        member.adapter.save(member.run.adapter, base=member.config.model.base)
        facts = {"finished_step": member.config.training.num_steps, "seconds": round(seconds, 1), "pack": len(members)}
        write_json(member.run.manifest, read_json(member.run.manifest) | facts)
