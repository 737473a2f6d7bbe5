"""What a run folder knows about its adapter, in the words of the files other tools read."""

import hashlib
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from delora_sd.adapters.attach import default_learning_rate
from delora_sd.adapters.exchange.plain_lora.writing import Provenance
from delora_sd.config.deciding import read_run_settings
from delora_sd.diffusion.families.family import Base
from delora_sd.files.contents import check_base
from delora_sd.files.run_folder import RunFolder
from delora_sd.files.tensors import read_tensors
from delora_sd.settings import TrainConfig

_FROM_THE_TENSORS = (
    "ss_base_model_version", "ss_v2", "ss_network_module", "ss_network_dim", "ss_network_alpha", "ss_network_args",
    "ss_output_name", "ss_sd_model_name",
)  # fmt: skip
"""What a header says about the file itself: said anew for another file."""


def describe_adapter(path: Path, lineage: dict[str, str], *, base: str) -> Provenance:
    """Returns what is known about an adapter folder, from the run around it, or about a file, from its header."""
    return _describe_file(path, lineage, base) if path.is_file() else _describe_folder(path, lineage, base)


def _describe_file(file: Path, lineage: dict[str, str], base: str) -> Provenance:
    _, said = read_tensors(file)
    return Provenance(
        title=file.stem,
        base=base or said.get("ss_sd_model_name", ""),
        date=_date([file]),
        size_px=None,
        trigger=said.get("modelspec.trigger_phrase", ""),
        is_v_prediction=said.get("modelspec.prediction_type") == "v",
        training={key: value for key, value in said.items() if key.startswith("ss_") and key not in _FROM_THE_TENSORS},
        lineage=_lineage_of_file(said) | lineage,
    )


def _lineage_of_file(said: dict[str, str]) -> dict[str, str]:
    names = ("method", "source_rank", "init", "weight_norm", "lambda_init", "config_sha256")
    return {name: said[key] for name in names if (key := f"delora.{name}") in said}


def _describe_folder(folder: Path, lineage: dict[str, str], base: str) -> Provenance:
    run = find_run(folder)
    config = read_run_settings(run.config) if run else None
    manifest: dict[str, Any] = run.read_manifest() if run else {}
    facts = manifest.get("base", {})
    trigger = f"{config.data.identifier} {_class_word(config, manifest)}".strip() if config else ""
    size_px = (config.model.size_px if config else None) or facts.get("size_px")
    if run:
        lineage = lineage | {"config_sha256": hashlib.sha256(run.config.read_bytes()).hexdigest()}
    return Provenance(
        title=run.path.resolve().name if run else folder.resolve().name,
        base=base,
        date=_date([file for file in folder.iterdir() if file.is_file()]),
        size_px=size_px,
        trigger=trigger,
        is_v_prediction=facts.get("prediction_type") == "v_prediction",
        training=_training(config, manifest, trigger, size_px) if config else {},
        lineage=lineage,
    )


def find_run(folder: Path) -> RunFolder | None:
    """Returns the run an adapter folder lies in: RUN/adapter or RUN/checkpoints/step-N/adapter."""
    for parent in list(folder.resolve().parents)[:3]:
        if RunFolder(parent).config.exists():
            return RunFolder(parent)
    return None


def check_base_of(folder: Path, base: Base) -> None:
    """Raises UserError when the run around an adapter folder was trained on a base of other contents."""
    run = find_run(folder)
    if run is not None:
        check_base(run, name=base.name, fingerprint=base.fingerprint, advice="bring back what it was trained on")


def _class_word(config: TrainConfig, manifest: dict[str, Any]) -> str:
    return manifest.get("subject", {}).get("class_word") or config.data.class_word or ""


def _date(files: list[Path]) -> str:
    """When the adapter was written: exporting it again later gives the same bytes."""
    newest = max(file.stat().st_mtime for file in files)
    return datetime.fromtimestamp(int(newest), UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _training(config: TrainConfig, manifest: dict[str, Any], trigger: str, size_px: int | None) -> dict[str, str]:
    optimizer, training = config.optimizer, config.training
    lr = default_learning_rate(config.adapter.method) if optimizer.lr is None else optimizer.lr
    num_photos = len(manifest.get("photos", ()))
    found = {
        "ss_resolution": f"({size_px}, {size_px})" if size_px else "",
        "ss_num_train_images": str(num_photos) if num_photos else "",
        "ss_num_reg_images": str(training.num_class_images) if training.prior_weight else "0",
        # One "folder" of photos with one caption: where the cards of A1111 and ComfyUI find the trigger words.
        "ss_tag_frequency": json.dumps({f"1_{trigger}": {trigger: max(num_photos, 1)}}) if trigger else "",
        "ss_learning_rate": str(lr),
        "ss_unet_lr": str(lr),
        "ss_steps": str(training.num_steps),
        "ss_max_train_steps": str(training.num_steps),
        "ss_total_batch_size": str(training.batch_size),
        "ss_seed": str(config.seed),
        "ss_optimizer": optimizer.name,
        "ss_lr_scheduler": optimizer.schedule,
        "ss_lr_warmup_steps": str(optimizer.warmup_steps),
        "ss_min_snr_gamma": "None",
        "ss_prior_loss_weight": str(training.prior_weight),
    }
    return {key: value for key, value in found.items() if value}
