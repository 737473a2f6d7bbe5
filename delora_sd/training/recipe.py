"""The whole story of a training, top to bottom: photos in, adapter files out. One subject is a pack of one."""

import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from delora_sd.adapters.delegated import attach_method, default_learning_rate
from delora_sd.adapters.export import export_defaults
from delora_sd.adapters.formats import save_adapter
from delora_sd.adapters.quantization import quantize_linears
from delora_sd.config import to_yaml
from delora_sd.data.subjects import Subject, load_subject
from delora_sd.diffusion.parts import Base, find_base, load_noise_scheduler, load_unet, resolve_device, resolve_dtype
from delora_sd.errors import UserError
from delora_sd.progress import ProgressDisplay
from delora_sd.run_folder import RunFolder, read_json, read_lines, write_json, write_lines, write_text
from delora_sd.settings import TrainConfig
from delora_sd.training.checkpoints import last_common_step, load_checkpoint
from delora_sd.training.door import check_config, check_pack, check_resume
from delora_sd.training.loop import FP16_LOSS_SCALE, Session, run_loop
from delora_sd.training.manifest import describe_run
from delora_sd.training.objective import AdaptedUNet
from delora_sd.training.optimization import build_optimizer
from delora_sd.training.preparation import prepare_cells
from delora_sd.training.previews import preview_renderer
from delora_sd.training.reporter import Reporter


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How one run of a pack ended."""

    run: RunFolder
    step: int
    """Completed steps."""
    failure: str | None
    """Why training stopped early; None when it is finished."""


def train(config: TrainConfig) -> None:
    """Trains one subject; the same call again resumes.

    Raises:
        UserError: settings or photos that cannot work, a changed config, or a loss that was not finite.
    """
    result = train_pack([config])[0]
    if result.failure:
        raise UserError(f"{result.run.path}: {result.failure}")


def train_pack(configs: list[TrainConfig]) -> list[TrainResult]:
    """Trains several runs in one batch, each into its own run folder as if alone; finished ones are skipped."""
    for config in configs:
        check_config(config)
    runs = [RunFolder(Path(config.output_dir).expanduser()) for config in configs]
    for run, config in zip(runs, configs, strict=True):
        check_resume(run, config)
    open_pairs = [(run, config) for run, config in zip(runs, configs, strict=True) if not is_finished(run, config)]
    if open_pairs:
        _train_unfinished([run for run, _ in open_pairs], [config for _, config in open_pairs])
    return [_result(run, config) for run, config in zip(runs, configs, strict=True)]


def is_finished(run: RunFolder, config: TrainConfig) -> bool:
    return run.is_finished() and read_json(run.manifest).get("finished_step") == config.training.num_steps


def _train_unfinished(runs: list[RunFolder], configs: list[TrainConfig]) -> None:
    check_pack(configs)
    subjects = [load_subject(config.data) for config in configs]
    base = find_base(configs[0].model)
    accelerator = _accelerator(configs[0], runs[0])
    with ExitStack() as stack:
        if accelerator.is_main_process:
            for run in runs:
                stack.enter_context(run.lock())
        _train_on_base(runs, configs, subjects, base, accelerator)
    accelerator.end_training()


def _train_on_base(
    runs: list[RunFolder], configs: list[TrainConfig], subjects: list[Subject], base: Base, accelerator: Accelerator
) -> None:
    first, device = configs[0], accelerator.device
    dtype = resolve_dtype(first.model.dtype, device)
    size_px = first.model.size_px or base.size_px
    began = time.monotonic()
    with accelerator.main_process_first():
        cells = prepare_cells(configs, subjects, base, size_px=size_px, device=device, dtype=dtype)
    unet = _training_unet(first, base, device, dtype)
    pack = attach_method(unet, [config.adapter for config in configs], seeds=[config.seed for config in configs])
    optimizer = build_optimizer(
        list(pack.adapters),
        [config.optimizer for config in configs],
        default_learning_rate(first.adapter.method),
        device,
    )
    start_step = last_common_step(runs)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        _open_run_folders(runs, configs, subjects, base, pack, start_step=start_step)
    scales = _resume(runs, pack, optimizer, dtype, start_step=start_step)
    scheduler = load_noise_scheduler(base)
    session = Session(
        accelerator=accelerator,
        model=accelerator.prepare_model(AdaptedUNet(unet, pack)),
        adapters=list(pack.adapters),
        optimizer=optimizer,
        configs=configs,
        cells=cells,
        alphas_cumprod=scheduler.alphas_cumprod.to(device),
        prediction_type=base.prediction_type,
        scales=scales,
        diverged={},
    )
    title = runs[0].path.name if len(runs) == 1 else f"{len(runs)} adapters"
    with ProgressDisplay(
        title,
        total=first.training.num_steps,
        unit="steps",
        done=start_step,
        is_shown=accelerator.is_main_process,
    ) as progress:
        reporter = Reporter(
            accelerator=accelerator,
            configs=configs,
            runs=runs,
            pack=pack,
            optimizer=optimizer,
            scales=session.scales,
            diverged=session.diverged,
            progress=progress,
            base_name=first.model.base,
            render_previews=preview_renderer(unet, pack, configs, subjects, base, runs, size_px=size_px),
        )
        reporter.start_clock(start_step)
        with reporter.stopping_on_signals():
            run_loop(session, reporter, start_step=start_step)
    if accelerator.is_main_process and not reporter.stop_requested:
        _finish(runs, configs, pack, session.diverged, seconds=time.monotonic() - began)
    accelerator.wait_for_everyone()  # nobody looks for the result before it is written


def _accelerator(config: TrainConfig, run: RunFolder) -> Accelerator:
    """Mixed precision is ours (a base in bf16 or fp16, adapters in fp32), so accelerate's is off."""
    if torch.cuda.is_available():
        torch.backends.cuda.matmul.allow_tf32 = config.training.allow_tf32
        torch.backends.cudnn.allow_tf32 = config.training.allow_tf32
    tracker = config.training.tracker
    accelerator = Accelerator(
        cpu=resolve_device().type == "cpu",  # or several CPU processes would each believe to be alone
        mixed_precision="no",
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


def _training_unet(config: TrainConfig, base: Base, device: torch.device, dtype: torch.dtype) -> nn.Module:
    unet = load_unet(base, device=device, dtype=dtype).to(memory_format=torch.channels_last)
    quantize_linears(unet, config.model.quantization)
    if config.training.gradient_checkpointing:
        unet.enable_gradient_checkpointing()
        unet.train()  # diffusers checkpoints only in training mode; these UNets have no active dropout
    if config.training.compile:
        unet.compile(dynamic=False)
    return unet


def _open_run_folders(runs, configs, subjects, base: Base, pack: nn.Module, *, start_step: int) -> None:
    """Writes settings and manifest; events later than the step training resumes from are forgotten."""
    for run, config, subject, adapter in zip(runs, configs, subjects, pack.adapters, strict=True):
        (run.path / "failed.json").unlink(missing_ok=True)
        write_text(run.config, to_yaml(config))
        manifest = describe_run(config, subject, base, trainable_parameters=adapter.num_parameters())
        write_json(run.manifest, manifest)
        if run.events.exists():
            write_lines(run.events, [event for event in read_lines(run.events) if event["step"] <= start_step])


def _resume(runs: list[RunFolder], pack: nn.Module, optimizer, dtype: torch.dtype, *, start_step: int) -> list[float]:
    """Restores every adapter at the step; returns the loss scales."""
    if start_step == 0:
        return [FP16_LOSS_SCALE if dtype == torch.float16 else 1.0] * len(runs)
    return [
        load_checkpoint(run, start_step, adapter, optimizer) for run, adapter in zip(runs, pack.adapters, strict=True)
    ]


def _finish(runs, configs, pack: nn.Module, diverged: dict[int, str], *, seconds: float) -> None:
    """Writes the adapter, the plain LoRA files, and last of all the mark that the run is complete."""
    peak = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
    for index, (run, config) in enumerate(zip(runs, configs, strict=True)):
        if index in diverged:
            continue
        save_adapter(pack.adapters[index], run.adapter, base=config.model.base)
        export_defaults(run)
        facts = {
            "finished_step": config.training.num_steps,
            "seconds": round(seconds, 1),
            "pack": len(runs),
            "peak_memory_bytes": peak,
        }
        write_json(run.manifest, read_json(run.manifest) | facts)


def _result(run: RunFolder, config: TrainConfig) -> TrainResult:
    failed = run.path / "failed.json"
    if is_finished(run, config):
        return TrainResult(run=run, step=config.training.num_steps, failure=None)
    if failed.exists():
        record = read_json(failed)
        return TrainResult(run=run, step=record["step"], failure=record["reason"])
    step = max(run.checkpoint_steps(), default=0)
    return TrainResult(run=run, step=step, failure=f"stopped at step {step}; run the same command again to go on")
