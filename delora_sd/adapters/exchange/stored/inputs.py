"""Where an adapter lies: a run, its checkpoint, a PEFT folder, one with parts, a plain LoRA file; and on which base."""

import warnings
from dataclasses import dataclass, replace
from pathlib import Path

from delora_sd.adapters.exchange.stored.formats import read_adapter_config
from delora_sd.adapters.exchange.stored.provenance import find_run
from delora_sd.adapters.peft.layout import CONFIG_FILE, PEFT_FILE
from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import DEFAULT_BASE, ModelConfig, NamedBase

DIFFUSERS_FILE = "pytorch_lora_weights.safetensors"
"""What diffusers calls the file in a folder of its own."""

UNET_PART = "unet"
"""PEFT folders of a whole pipeline: one for the UNet, others beside it."""

_OTHER_PARTS = ("text_encoder", "text_encoder_2")


@dataclass(frozen=True, kw_only=True)
class BaseChoice:
    """Which base the settings name; `is_named` False: whatever the adapter says."""

    model: ModelConfig
    is_named: bool


def find_adapter(path: Path) -> Path:
    """Returns the adapter's folder or file for whatever names one.

    A file of PEFT's with its configuration beside it is its folder: alone it does not say how to apply it.

    Raises:
        UserError: nothing there, an unfinished run, no adapter, or several of which none is named.
    """
    path = Path(path).expanduser()
    if path.is_file():
        return path.parent if path.name == PEFT_FILE and (path.parent / CONFIG_FILE).is_file() else path
    if (path / CONFIG_FILE).exists():
        return path
    run = RunFolder(path)
    if run.is_finished():
        return run.adapter
    if not path.exists():
        raise UserError(f"{path} does not exist; expected a run folder, an adapter folder or a .safetensors file")
    if steps := run.checkpoint_steps():
        raise UserError(
            f"{path}: training has not finished (last checkpoint: step {steps[-1]}); run it again to resume"
        )
    return _adapter_inside(path)


def find_average(run: RunFolder, name: str, *, step: int | None) -> Path:
    """Returns the folder of an average of the run's adapter, at its end or as it was at a checkpoint.

    Raises:
        UserError: the run has no average of that name.
    """
    within = run.averages if step is None else run.checkpoint(step)
    known = {folder.parent.name: folder.parent for folder in sorted(within.glob(f"[!.]*/{CONFIG_FILE}"))}
    known.pop("adapter", None)
    if name not in known:
        at = "" if step is None else f" at step {step}"
        raise UserError(
            f"average={name}: {run.path} has no such average{at}; it has: {', '.join(known) or 'none'}. "
            "`training.ema.decay` keeps one while it trains, `delora-sd average` makes one afterwards"
        )
    return known[name]


def _adapter_inside(folder: Path) -> Path:
    if (folder / UNET_PART / CONFIG_FILE).is_file():
        if others := [name for name in _OTHER_PARTS if (folder / name / CONFIG_FILE).is_file()]:
            warnings.warn(f"{folder} also changes {', '.join(others)}; only the UNet's part is used", stacklevel=4)
        return folder / UNET_PART
    if (folder / DIFFUSERS_FILE).is_file():
        return folder / DIFFUSERS_FILE
    files = sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("."))
    if len(files) == 1 and files[0].name != PEFT_FILE:
        return files[0]
    if len(files) > 1:
        raise UserError(f"{folder} holds several files; name one: {', '.join(str(file) for file in files[:5])}")
    found = ", ".join(sorted(entry.name for entry in folder.iterdir())[:5]) or "nothing"
    raise UserError(
        f"{folder} is no adapter: neither a run folder (config.yaml) nor a PEFT folder ({CONFIG_FILE}) nor one with a "
        f"LoRA file; found {found}"
    )


def model_of(adapter: Path, choice: BaseChoice) -> ModelConfig | None:
    """Returns the settings' model; where they name no base, that of the run around the adapter or of its folder.

    None: nobody names one.
    """
    asked = choice.model
    if choice.is_named:
        return asked
    run = find_run(adapter)
    if run is not None:
        trained = read_run_settings(run.config).model
        return replace(asked, base=trained.base, revision=trained.revision)
    base = None if adapter.is_file() else read_adapter_config(adapter).get("base_model_name_or_path")
    return replace(asked, base=base) if isinstance(base, str) and base else None


def base_choice(named: NamedBase) -> BaseChoice:
    """Returns the base that the settings of a command name, or leave to the adapter."""
    model = ModelConfig(base=named.base or DEFAULT_BASE, revision=named.revision, offline=named.offline)
    return BaseChoice(model=model, is_named=bool(named.base))
