"""Everything about a training on maps that can be refused before a model loads, and its settings as the loop's."""

import math
from dataclasses import replace
from pathlib import Path

from delora_sd.adapters.attach import check_known
from delora_sd.config.deciding import is_deciding
from delora_sd.config.load import flatten, load_config
from delora_sd.diffusion.unet.unets import ATTENTION
from delora_sd.errors import UserError
from delora_sd.files.contents import absolute_place
from delora_sd.files.run_folder import RunFolder
from delora_sd.maps.dataset import MINIATURE
from delora_sd.maps.encoder import CONTROL_FOLDER
from delora_sd.maps.settings import MapTrainConfig
from delora_sd.settings import AdapterConfig, PreviewConfig, TrainConfig
from delora_sd.training.before.door import check_config, resolve_places

TARGETS = {"attention": ATTENTION, "attention+geglu": (*ATTENTION, "ff.net.0.proj")}
"""OFT's target set is the second: its `{"CrossAttention", "Attention", "GEGLU"}`, but not `ff.net.2`."""


def absolute_places(config: MapTrainConfig) -> MapTrainConfig:
    """Returns the config with every path absolute; names stay names."""
    data, control = config.data, config.control
    if data.dataset != MINIATURE:
        data = replace(data, dataset=absolute_place(data.dataset))
    if data.captions not in (None, "scenes"):
        data = replace(data, captions=absolute_place(data.captions))
    if control.encoder == "pretrained" and Path(control.checkpoint).expanduser().is_dir():
        control = replace(control, checkpoint=absolute_place(control.checkpoint))
    trained = resolve_places(loop_config(config, config.training.num_steps))
    return replace(config, data=data, control=control, model=trained.model, adapter=trained.adapter, targets="named")


def adapter_config(config: MapTrainConfig) -> AdapterConfig:
    """Returns the adapter's settings with the layers that `targets` names."""
    if config.targets == "named":
        return config.adapter
    return replace(config.adapter, target_modules=TARGETS[config.targets])


def num_steps(config: MapTrainConfig, num_pairs: int) -> int:
    """Returns the optimizer steps: the last epoch is whole, its last batch filled from the next one's order."""
    if config.epochs is None:
        return config.training.num_steps
    return math.ceil(config.epochs * num_pairs / config.training.batch_size)


def loop_config(config: MapTrainConfig, steps: int) -> TrainConfig:
    """Returns what the training loop knows of these settings."""
    return TrainConfig(
        output_dir=config.output_dir,
        seed=config.seed,
        model=config.model,
        adapter=adapter_config(config),
        training=replace(config.training, num_steps=steps),
        optimizer=config.optimizer,
        preview=PreviewConfig(every=0),
    )


def check_map_config(config: MapTrainConfig) -> None:
    """Raises UserError for settings no run could satisfy."""
    check_config(loop_config(config, config.training.num_steps))
    check_known(adapter_config(config))
    if config.epochs is not None and config.epochs < 1:
        raise UserError(f"epochs: {config.epochs}; expected a whole number of at least 1, or none")
    if config.training.prior_weight != 0 or config.training.outside_weight != 1:
        raise UserError(
            "training.prior_weight, training.outside_weight: maps have neither class images nor masks; leave them out"
        )
    if config.optimizer.angular:
        raise UserError("optimizer.angular: not with maps; leave it out")
    if not (math.isfinite(config.control.max_lr) and config.control.max_lr >= 0):
        raise UserError(f"control.max_lr: {config.control.max_lr}; expected 0 or a positive number")
    if config.control.alone and not config.control.trained:
        raise UserError("control.alone, control.trained: nothing would train; let one of the two train")
    if config.adapter.method == "full" and not config.control.alone:
        raise UserError("adapter.method: full trains the UNet that every other row keeps; use an adapter's method")
    if config.data.workers < 1:
        raise UserError(f"data.workers: {config.data.workers}; expected a whole number of at least 1")


def check_same_run(run: RunFolder, config: MapTrainConfig) -> None:
    """Raises UserError when the folder holds a run of other settings; longer training is fine."""
    run.check_version()
    if run.path.exists() and not run.path.is_dir():
        raise UserError(f"output_dir {run.path} is a file; give a folder")
    if not run.config.exists():
        return
    if not is_map_run(run.path):
        raise UserError(f"{run.path} is no run on maps; use another output_dir")
    before, now = flatten(read_map_settings(run)), flatten(config)
    changed = [key for key, value in now.items() if is_deciding(key) and before[key] != value]
    longer = {"training.num_steps", "epochs"}
    if config.optimizer.schedule == "constant":
        changed = [key for key in changed if not (key in longer and before[key] and now[key] > before[key])]
    if changed:
        key = changed[0]
        raise UserError(
            f"{run.path} was begun with {key}={before[key]}, now it is {now[key]}; use another output_dir, or the "
            "settings in its config.yaml"
        )


def check_map_pack(configs: list[MapTrainConfig]) -> None:
    """Raises UserError when runs asked to train together see other maps or have other encoders."""
    first = flatten(configs[0])
    for other in configs[1:]:
        for key, value in flatten(other).items():
            if key.startswith(("data.", "control.", "targets", "epochs")) and value != first[key]:
                raise UserError(f"{key}: {first[key]} and {value} cannot train in one pack")


def read_map_settings(run: RunFolder) -> MapTrainConfig:
    """Returns the settings in the run's config.yaml."""
    return load_config(MapTrainConfig, [run.config], [])


def is_map_run(path: Path) -> bool:
    """True for a run folder that was trained on maps, or has begun to."""
    run = RunFolder(path)
    if (run.path / CONTROL_FOLDER).is_dir():
        return True
    return run.config.is_file() and "\ncontrol:" in run.config.read_text(encoding="utf-8", errors="replace")
