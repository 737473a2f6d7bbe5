"""The whole story of a training, top to bottom: photos in, adapter files out. One subject is a pack of one."""

import time
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import nn

from delora_sd.adapters.attach import Attached, attach_method
from delora_sd.adapters.exchange.export.export import export_defaults
from delora_sd.adapters.exchange.stored.formats import save_adapter
from delora_sd.adapters.lowrank.adapter import FusedRows
from delora_sd.config.load import to_yaml
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, read_json, read_lines, write_json, write_lines, write_text
from delora_sd.progress import ProgressDisplay
from delora_sd.settings import TrainConfig
from delora_sd.signals import Stopped
from delora_sd.stopwatch import time_of
from delora_sd.training.before.door import admit
from delora_sd.training.before.plan import Plan, make_plan, recognise_finished
from delora_sd.training.before.preparation import prepare_data
from delora_sd.training.loop.angular import start_directions
from delora_sd.training.loop.ema import EMA, Ema
from delora_sd.training.loop.loop import Session, run_loop
from delora_sd.training.loop.member import Member
from delora_sd.training.loop.objective import AdaptedDenoiser, load_training_denoiser
from delora_sd.training.loop.optimization import build_optimizer
from delora_sd.training.record.checkpoints import last_common_step, load_checkpoint
from delora_sd.training.record.export_check import measure_exports
from delora_sd.training.record.manifest import describe_run
from delora_sd.training.record.previews import preview_renderer
from delora_sd.training.record.reporter import Reporter

FP16_LOSS_SCALE = 2.0**12
"""First loss scale of an fp16 base; halved whenever an adapter's gradients overflow."""


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How one run of a pack ended."""

    run: RunFolder
    step: int
    """Completed steps."""
    failure: str | None
    """Why training gave up; None when it is finished."""
    is_new: bool
    """False: it was finished before, and nothing was done."""


def train(config: TrainConfig) -> TrainResult:
    """Trains one subject; the same call again resumes.

    Raises:
        UserError: settings or photos that cannot work, a changed config, or a loss that was not finite.
    """
    result = train_pack([config])[0]
    if result.failure:
        raise UserError(f"{result.run.path}: {result.failure}")
    return result


def train_pack(configs: list[TrainConfig]) -> list[TrainResult]:
    """Trains several runs in one batch, each into its own run folder as if alone; finished ones are skipped.

    Raises:
        Stopped: SIGTERM or Ctrl-C came while it trained; the checkpoint of the last step is written.
    """
    admitted = [admit(config) for config in configs]
    unfinished = []
    for run, config in admitted:
        if run.is_trained_to(config.training.num_steps):
            recognise_finished(run, config)
        else:
            unfinished.append(config)
    if unfinished:
        with time_of("loading"):
            plan = make_plan(unfinished)
        _train_unfinished(plan)
    return [_result(run, config, is_new=config in unfinished) for run, config in admitted]


def _train_unfinished(plan: Plan) -> None:
    with ExitStack() as locks:
        if plan.accelerator.is_main_process:
            for member in plan.members:
                locks.enter_context(member.run.lock())
        stop = _train(plan)
        plan.accelerator.wait_for_everyone()  # nobody looks for the result before it is written
    plan.accelerator.end_training()
    if stop is not None:
        raise stop


def _train(plan: Plan) -> Stopped | None:
    """Caches, attaches, resumes, loops, saves; returns the stop when it was asked to."""
    began = time.monotonic()
    accelerator, members = plan.accelerator, plan.members
    with accelerator.main_process_first():
        prepare_data(plan)
    with time_of("loading"):
        denoiser = load_training_denoiser(
            plan.base, plan.model, plan.training, device=accelerator.device, dtype=plan.dtype
        )
        pack = _attach(denoiser, members, plan.base.family.fused_rows(denoiser))
    optimizer = build_optimizer([(each.adapter, each.config.optimizer) for each in members], accelerator.device)
    start_step = last_common_step([member.run for member in members])
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _open_run_folders(plan, start_step)
    _restore(plan, optimizer, start_step)
    session = Session(
        accelerator=accelerator,
        model=accelerator.prepare_model(AdaptedDenoiser(denoiser, pack, plan.base.family.predict)),
        members=members,
        optimizer=optimizer,
        objective=plan.base.family.objective(plan.base, plan.training, accelerator.device),
    )
    render_preview = preview_renderer(plan, denoiser, pack)
    with _progress(plan, start_step) as progress:
        reporter = Reporter(session=session, pack=pack, progress=progress, render_preview=render_preview)
        with reporter.stopping_on_signals(), time_of("training arithmetic"):
            reporter.catch_up(start_step)
            run_loop(session, reporter, start_step=start_step)
    if accelerator.is_main_process and not reporter.stop_requested:
        _finish(plan, denoiser, pack, seconds=time.monotonic() - began)
    return reporter.stop()


def _attach(denoiser: nn.Module, members: list[Member], fused_rows: FusedRows) -> Attached:
    """Puts a fresh adapter of every member on the denoiser."""
    configs, seeds = [member.config.adapter for member in members], [member.config.seed for member in members]
    pack = attach_method(denoiser, configs, seeds=seeds, fused_rows=fused_rows)
    for member, adapter in zip(members, pack.adapters, strict=True):
        member.adapter = adapter
    return pack


def _progress(plan: Plan, start_step: int) -> ProgressDisplay:
    title = plan.members[0].run.path.name if len(plan.members) == 1 else f"{len(plan.members)} adapters"
    return ProgressDisplay(
        title,
        total=plan.training.num_steps,
        unit="steps",
        done=start_step,
        is_shown=plan.accelerator.is_main_process,
    )


def _open_run_folders(plan: Plan, start_step: int) -> None:
    """Writes settings and manifest; events later than the step training resumes from are forgotten."""
    for member in plan.members:
        run, config = member.run, member.config
        run.failure.unlink(missing_ok=True)
        write_text(run.config, to_yaml(config))
        manifest = describe_run(
            config,
            member.subject,
            member.prompts,
            member.masks,
            plan.base,
            shapes=plan.shapes if config.data.buckets else (),
            trainable_parameters=member.adapter.num_parameters(),
            before=run.read_manifest(),
        )
        write_json(run.manifest, manifest)
        if run.events.exists():
            write_lines(run.events, [event for event in read_lines(run.events) if event["step"] <= start_step])


def _restore(plan: Plan, optimizer: torch.optim.Optimizer, start_step: int) -> None:
    """Brings every member to the step: adapter, average, optimizer state and loss scale; step 0 is a start."""
    for member in plan.members:
        if start_step:
            member.loss_scale = load_checkpoint(member.run, start_step, member.adapter, optimizer)
        elif plan.dtype == torch.float16:
            member.loss_scale = FP16_LOSS_SCALE
        if not start_step and member.config.optimizer.angular:
            start_directions(member.adapter)
        if member.config.training.ema.decay:
            member.ema = Ema(member.adapter, member.config.training.ema)
            if start_step:
                member.ema.restore(member.run.checkpoint(start_step) / EMA)


@time_of("export")
def _finish(plan: Plan, denoiser: nn.Module, pack: Attached, *, seconds: float) -> None:
    """Writes the adapter, the plain LoRA files, and last of all the mark that the run is complete."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    exports = {}
    for member in plan.members:
        if member.left is None:
            if member.ema is not None:
                member.ema.save(member.run.averages / EMA, base=member.config.model.base)
            save_adapter(member.adapter, member.run.adapter, base=member.config.model.base)
            exports[member] = export_defaults(member.run)
    for member, differences in measure_exports(plan, denoiser, pack, exports).items():
        facts = {
            "finished_step": member.config.training.num_steps,
            "seconds": round(seconds, 1),
            "pack": len(plan.members),
            "peak_memory_bytes": peak,
            "export_check": member.config.training.export_check,
            "export_difference": differences,
        }
        write_json(member.run.manifest, read_json(member.run.manifest) | facts)


def _result(run: RunFolder, config: TrainConfig, *, is_new: bool) -> TrainResult:
    if run.is_trained_to(config.training.num_steps):
        return TrainResult(run=run, step=config.training.num_steps, failure=None, is_new=is_new)
    record = read_json(run.failure)
    return TrainResult(run=run, step=record["step"], failure=record["reason"], is_new=is_new)
