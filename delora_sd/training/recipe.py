"""The whole story of a training, top to bottom: photos in, adapter files out. One subject is a pack of one."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from delora_sd.adapters.attach import attach_method, default_learning_rate
from delora_sd.adapters.exchange.export import export_defaults
from delora_sd.adapters.exchange.formats import save_adapter
from delora_sd.config.load import to_yaml
from delora_sd.diffusion.parts import load_noise_scheduler
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, read_json, read_lines, write_json, write_lines, write_text
from delora_sd.progress import ProgressDisplay
from delora_sd.settings import TrainConfig
from delora_sd.signals import Stopped
from delora_sd.training.checkpoints import last_common_step, load_checkpoint
from delora_sd.training.door import check_config, check_resume
from delora_sd.training.export_check import measure_exports
from delora_sd.training.frozen_unet import load_training_unet
from delora_sd.training.identity import recognise_finished, resolve_places
from delora_sd.training.loop import run_loop
from delora_sd.training.manifest import describe_run
from delora_sd.training.objective import AdaptedUNet
from delora_sd.training.optimization import build_optimizer
from delora_sd.training.plan import Plan, make_plan
from delora_sd.training.preparation import prepare_cells
from delora_sd.training.previews import preview_renderer
from delora_sd.training.reporter import Reporter
from delora_sd.training.session import FP16_LOSS_SCALE, Session


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
    configs = [resolve_places(config) for config in configs]
    runs = [RunFolder(Path(config.output_dir).expanduser()) for config in configs]
    unfinished = []
    for run, config in zip(runs, configs, strict=True):
        check_config(config)
        check_resume(run, config)
        if run.is_trained_to(config.training.num_steps):
            recognise_finished(run, config)
        else:
            unfinished.append((run, config))
    if unfinished:
        _train_unfinished(make_plan(*map(list, zip(*unfinished, strict=True))))
    new = {run.path for run, _ in unfinished}
    return [_result(run, config, is_new=run.path in new) for run, config in zip(runs, configs, strict=True)]


def _train_unfinished(plan: Plan) -> None:
    with ExitStack() as locks:
        if plan.accelerator.is_main_process:
            for run in plan.runs:
                locks.enter_context(run.lock())
        stop = _train(plan)
        plan.accelerator.wait_for_everyone()  # nobody looks for the result before it is written
    plan.accelerator.end_training()
    if stop is not None:
        raise stop


def _train(plan: Plan) -> Stopped | None:
    """Caches, attaches, resumes, loops, saves; returns the stop when it was asked to."""
    began = time.monotonic()
    accelerator, configs = plan.accelerator, plan.configs
    with accelerator.main_process_first():
        cells = prepare_cells(plan)
    unet = load_training_unet(
        plan.base, configs[0].model, configs[0].training, device=accelerator.device, dtype=plan.dtype
    )
    pack = attach_method(unet, [config.adapter for config in configs], seeds=[config.seed for config in configs])
    default_lr = default_learning_rate(configs[0].adapter.method)
    rates = [config.optimizer for config in configs]
    optimizer = build_optimizer(list(pack.adapters), rates, default_lr, accelerator.device)
    start_step = last_common_step(plan.runs)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _open_run_folders(plan, pack, start_step)
    session = Session(
        accelerator=accelerator,
        model=accelerator.prepare_model(AdaptedUNet(unet, pack)),
        adapters=list(pack.adapters),
        optimizer=optimizer,
        configs=configs,
        cells=cells,
        alphas_cumprod=load_noise_scheduler(plan.base).alphas_cumprod.to(accelerator.device),
        prediction_type=plan.base.prediction_type,
        scales=_resume(plan, pack, optimizer, start_step),
        diverged={},
    )
    render_previews = preview_renderer(plan, unet, pack)
    with _progress(plan, start_step) as progress:
        reporter = Reporter(
            session=session, runs=plan.runs, pack=pack, progress=progress, render_previews=render_previews
        )
        with reporter.stopping_on_signals():
            reporter.catch_up(start_step)
            run_loop(session, reporter, start_step=start_step)
    if accelerator.is_main_process and not reporter.stop_requested:
        _finish(plan, unet, pack, session, seconds=time.monotonic() - began)
    return reporter.stop()


def _progress(plan: Plan, start_step: int) -> ProgressDisplay:
    title = plan.runs[0].path.name if len(plan.runs) == 1 else f"{len(plan.runs)} adapters"
    return ProgressDisplay(
        title,
        total=plan.configs[0].training.num_steps,
        unit="steps",
        done=start_step,
        is_shown=plan.accelerator.is_main_process,
    )


def _open_run_folders(plan: Plan, pack: nn.Module, start_step: int) -> None:
    """Writes settings and manifest; events later than the step training resumes from are forgotten."""
    for run, config, subject, adapter in zip(plan.runs, plan.configs, plan.subjects, pack.adapters, strict=True):
        run.failure.unlink(missing_ok=True)
        write_text(run.config, to_yaml(config))
        manifest = describe_run(
            config,
            subject,
            plan.base,
            trainable_parameters=adapter.num_parameters(),
            before=run.read_manifest(),
        )
        write_json(run.manifest, manifest)
        if run.events.exists():
            write_lines(run.events, [event for event in read_lines(run.events) if event["step"] <= start_step])


def _resume(plan: Plan, pack: nn.Module, optimizer: torch.optim.Optimizer, start_step: int) -> list[float]:
    """Restores every adapter at the step; returns the loss scales."""
    if start_step == 0:
        return [FP16_LOSS_SCALE if plan.dtype == torch.float16 else 1.0] * len(plan.runs)
    return [
        load_checkpoint(run, start_step, adapter, optimizer)
        for run, adapter in zip(plan.runs, pack.adapters, strict=True)
    ]


def _finish(plan: Plan, unet: nn.Module, pack: nn.Module, session: Session, *, seconds: float) -> None:
    """Writes the adapter, the plain LoRA files, and last of all the mark that the run is complete."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    exports = {}
    for index, (run, config) in enumerate(zip(plan.runs, plan.configs, strict=True)):
        if index not in session.diverged:
            save_adapter(pack.adapters[index], run.adapter, base=config.model.base)
            exports[index] = export_defaults(run)
    differences = measure_exports(plan, unet, pack, session.cells, exports)
    for index in exports:
        facts = {
            "finished_step": plan.configs[index].training.num_steps,
            "seconds": round(seconds, 1),
            "pack": len(plan.runs),
            "peak_memory_bytes": peak,
            "export_difference": differences[index],
        }
        manifest = plan.runs[index].manifest
        write_json(manifest, read_json(manifest) | facts)


def _result(run: RunFolder, config: TrainConfig, *, is_new: bool) -> TrainResult:
    if run.is_trained_to(config.training.num_steps):
        return TrainResult(run=run, step=config.training.num_steps, failure=None, is_new=is_new)
    record = read_json(run.failure)
    return TrainResult(run=run, step=record["step"], failure=record["reason"], is_new=is_new)
