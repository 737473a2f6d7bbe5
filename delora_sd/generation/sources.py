"""What to generate from: a run folder, its checkpoint, a PEFT folder, a plain LoRA file, or the base model itself."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from delora_sd.adapters.exchange.stored.inputs import BaseChoice, find_adapter, find_average, model_of
from delora_sd.config.deciding import read_run_settings
from delora_sd.data.subjects import class_facts
from delora_sd.diffusion.bases import place_of_base
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import DEFAULT_BASE, GenerateConfig, ModelConfig

BASE = "base"
"""`run=base`: no adapter, the base model's own images."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Everything the settings leave to whatever `run` names."""

    adapters: dict[Path, float]
    """{folder or file: strength}, the main one first."""
    step: int | None
    average: str | None
    """Which average of the run's adapter; none: as trained."""
    model: ModelConfig
    identifier: str
    class_word: str | None
    """None: unknown; prompts must then not need it."""
    is_live: bool
    images: Path
    """Folder that image sets go into."""
    run: RunFolder | None = None
    """The run it all comes from, whose base must be what it was trained on; none where another base is asked for."""


def find_source(config: GenerateConfig) -> Source:
    """Returns what the settings name.

    Raises:
        UserError: nothing there, an unfinished run, an unknown step, or settings that contradict the run folder.
    """
    if not config.run:
        raise UserError(f"run is missing: a run folder, a PEFT folder, a LoRA file (.safetensors), or `{BASE}`")
    path = Path(config.run).expanduser()
    if config.run == BASE:
        return _bare_source(config, adapters={}, model=config.model)
    if (path / "config.yaml").is_file():
        return _run_source(config, RunFolder(path))
    if not path.exists():
        raise UserError(f"run={config.run}: no such folder or file")
    try:
        path = find_adapter(path)
    except UserError as error:
        raise UserError(f"run={error}") from None
    choice = BaseChoice(model=config.model, is_named=config.model.base != DEFAULT_BASE)
    return _bare_source(config, adapters={path: config.strength}, model=model_of(path, choice) or config.model)


def hash_adapters(adapters: Mapping[Path, float]) -> dict[str, float]:
    """Returns {hash of the adapter's files: strength}, in order.

    Raises:
        UserError: one adapter under two names. Its strengths would add up, under the name of one of them.
    """
    hashed: dict[str, Path] = {}
    for path in adapters:
        if (first := hashed.setdefault(hash_adapter(path), path)) is not path:
            raise UserError(f"extra_adapters: {path} is the same adapter as {first}; give it once, with the sum")
    return {digest: adapters[path] for digest, path in hashed.items()}


def hash_adapter(path: Path) -> str:
    """Returns 16 hexadecimal digits of the SHA-256 over the adapter's files."""
    path = find_adapter(path)
    files = (
        [path] if path.is_file() else sorted(file for file in path.glob("[!.]*") if file.suffix in _ADAPTER_SUFFIXES)
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()[:16]


_ADAPTER_SUFFIXES = (".json", ".safetensors")


def _run_source(config: GenerateConfig, run: RunFolder) -> Source:
    run.check_version()
    train = read_run_settings(run.config)
    adapter = _run_adapter(config, run)
    subject = _trained_subject(run)
    output = RunFolder(Path(config.output_dir).expanduser()) if config.output_dir else run
    model = _override_model(train.model, config.model, run)
    if config.base:
        model = replace(model, base=config.base, revision=config.model.revision)
    return Source(
        adapters=_with_extra(config, {adapter: config.strength}),
        step=config.step,
        average=config.average,
        model=model,
        identifier=train.data.identifier,
        class_word=subject["class_word"],
        is_live=subject["is_live"],
        images=output.images,
        run=None if config.base else run,
    )


def _trained_subject(run: RunFolder) -> dict[str, Any]:
    """Returns {"class_word", "is_live"} as training wrote them: the photos need not be there any more."""
    fields = {"class_word": str, "is_live": bool}
    source, advice = f"{run.manifest}: subject", "run the same training again"
    return check_record(run.read_manifest().get("subject", {}), fields, source=source, advice=advice)


def _run_adapter(config: GenerateConfig, run: RunFolder) -> Path:
    """Returns the folder of the adapter asked for."""
    steps = run.checkpoint_steps()
    known = ", ".join(map(str, steps)) or "none yet"
    if config.step is not None:
        if config.step not in steps:
            raise UserError(f"step={config.step}: {run.path} has no such checkpoint; it has: {known}")
        if config.average is None:
            return run.checkpoint(config.step) / "adapter"
    if config.average is not None:
        return find_average(run, config.average, step=config.step)
    if not run.is_finished():
        raise UserError(f"{run.path}: training is not finished; go on with it, or give step=N (checkpoints: {known})")
    return run.adapter


def _override_model(trained: ModelConfig, asked: ModelConfig, run: RunFolder) -> ModelConfig:
    """Returns the run's model with what was asked for otherwise; another base would be another experiment."""
    default = ModelConfig()
    changed = {f.name: getattr(asked, f.name) for f in fields(ModelConfig)}
    changed = {name: value for name, value in changed.items() if value != getattr(default, name)}
    if "base" in changed and Path(place_of_base(changed["base"])).is_absolute() and _knows_base(run):
        trained = replace(
            trained, base=changed["base"]
        )  # a base that moved: its contents are compared when it is found
    for name in ("base", "revision"):
        if name in changed and changed[name] != getattr(trained, name):
            raise UserError(
                f"model.{name}={changed[name]}: {run.path} was trained on {getattr(trained, name)}; leave it out, or "
                f"give run={run.adapter} to try the adapter on another base"
            )
    return replace(trained, **changed)


def _knows_base(run: RunFolder) -> bool:
    return bool(run.read_manifest().get("base", {}).get("fingerprint"))


def _bare_source(config: GenerateConfig, *, adapters: dict[Path, float], model: ModelConfig) -> Source:
    """No run folder: everything comes from the settings."""
    if config.step is not None:
        raise UserError(f"step={config.step}: only a run folder has steps, run={config.run} has none")
    if config.average is not None:
        raise UserError(f"average={config.average}: only a run folder has averages, run={config.run} has none")
    if not config.output_dir:
        raise UserError(f"output_dir is missing: run={config.run} is no run folder that images could go into")
    class_word, is_live = class_facts(config.data)
    return Source(
        adapters=_with_extra(config, adapters),
        step=None,
        average=None,
        model=model,
        identifier=config.data.identifier,
        class_word=class_word,
        is_live=is_live,
        images=RunFolder(Path(config.output_dir).expanduser()).images,
    )


def _with_extra(config: GenerateConfig, adapters: dict[Path, float]) -> dict[Path, float]:
    for name, strength in config.extra_adapters.items():
        path = find_adapter(Path(name))
        if path in adapters:
            raise UserError(f"extra_adapters: {name} is given twice; give it once, with the sum of its strengths")
        adapters = adapters | {path: strength}
    return adapters
