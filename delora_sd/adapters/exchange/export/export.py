"""Adapters written as plain LoRA files: where to, in which layout, and what was kept."""

import warnings
from pathlib import Path

from delora_sd.adapters.exchange.export.as_lora import NoPlainLora, PlainLora, plain_lora_of
from delora_sd.adapters.exchange.merge.merging import check_strength
from delora_sd.adapters.exchange.plain_lora.writing import write_layout
from delora_sd.adapters.exchange.stored.formats import read_adapter_config
from delora_sd.adapters.exchange.stored.inputs import base_choice, find_adapter, find_average
from delora_sd.adapters.exchange.stored.provenance import describe_adapter, find_run
from delora_sd.adapters.full import FULL_TYPE
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, check_length
from delora_sd.settings import ExportConfig


def export_adapter(config: ExportConfig) -> None:
    """Writes one file (kohya, diffusers) or folder (peft) and says what was kept.

    Raises:
        UserError: no adapter there, nowhere to write, a strength outside 0..2, or a base that cannot be loaded.
    """
    check_strength("strength", config.strength)
    if config.rank is not None and config.rank < 1:
        raise UserError(f"rank: {config.rank}; a rank is a whole number of at least 1")
    if config.dora_scale and config.layout != "kohya":
        raise UserError(f"dora_scale: kohya's name; the {config.layout} layout keeps DoRA's magnitude as it is")
    adapter = _adapter(config)
    output = _output(config, adapter)
    plain = plain_lora_of(
        adapter,
        strength=config.strength,
        rank=config.rank,
        choice=base_choice(config.model),
        with_magnitude=config.layout != "kohya" or config.dora_scale,
    )
    provenance = describe_adapter(adapter, plain.lineage, base=plain.base)
    write_layout(output, plain.layers, provenance, layout=config.layout, precision=config.precision)
    _show(plain, output)


def export_defaults(run: RunFolder) -> list[Path]:
    """Writes the kohya and the diffusers file of a finished run into `export/`, fp16; returns their paths.

    A UNet that trained whole is no LoRA of any useful rank: nothing is written, `delora-sd merge` is for it.
    """
    if read_adapter_config(run.adapter)["peft_type"] == FULL_TYPE:
        return []
    paths = []
    for layout in ("kohya", "diffusers"):
        try:
            plain = plain_lora_of(run.adapter, strength=1.0, rank=None, with_magnitude=layout == "diffusers")
        except NoPlainLora as error:
            warnings.warn(f"no plain LoRA is written: {error}", stacklevel=2)
            return []
        provenance = describe_adapter(run.adapter, plain.lineage, base=plain.base)
        write_layout(export_path(run, layout), plain.layers, provenance, layout=layout, precision="fp16")
        paths.append(export_path(run, layout))
    return paths


def export_path(run: RunFolder, layout: str, *, step: int | None = None, average: str | None = None) -> Path:
    """Returns where a run's export goes: `export/NAME.kohya.safetensors`, a folder for peft."""
    name = run.path.resolve().name + ("" if step is None else f"-step{step:06d}")
    name += "" if average is None else f"-{average}"
    return run.export / (f"{name}.peft" if layout == "peft" else f"{name}.{layout}.safetensors")


def _adapter(config: ExportConfig) -> Path:
    if not config.run:
        raise UserError("run: missing; give a run folder or an adapter folder")
    path = Path(config.run).expanduser()
    if config.step is not None:
        run = RunFolder(path)
        if config.step not in run.checkpoint_steps():
            steps = ", ".join(map(str, run.checkpoint_steps())) or "none"
            raise UserError(f"step: {path} has no checkpoint of step {config.step}; it has {steps}")
        if config.average is None:
            path = run.checkpoint(config.step)
            return path / "adapter" if (path / "adapter").is_dir() else path
    if config.average is not None:
        return find_average(RunFolder(path), config.average, step=config.step)
    return find_adapter(path)


def _output(config: ExportConfig, adapter: Path) -> Path:
    if config.output:
        output = Path(config.output).expanduser()
        if config.layout != "peft" and output.suffix != ".safetensors":
            raise UserError(f"output: {output}; a {config.layout} file ends with .safetensors")
        check_length(output, setting="output")
        return output
    run = None if adapter.is_file() else find_run(adapter)
    if run is None:
        raise UserError(f"output: missing; {adapter} is no adapter of a run folder, so say where to write")
    return export_path(run, config.layout, step=config.step, average=config.average)


def _show(plain: PlainLora, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)  # paths and layer names are text, whatever brackets they hold
    if plain.energy:
        table = Table("layer", "rank", "kept energy", title="the closest LoRA of the rank")
        for name, share in plain.energy.items():
            table.add_row(name, str(plain.layers[name].down.shape[0]), f"{share:.4f}")
        console.print(table)
        console.print(f"kept energy: lowest {min(plain.energy.values()):.4f}; `delora-sd merge` keeps everything")
    ranks = sorted({layer.down.shape[0] for layer in plain.layers.values()})
    kind = "approximate" if plain.energy else "exact"
    name = "DoRA" if any(layer.magnitude is not None for layer in plain.layers.values()) else "LoRA"
    console.print(
        f"{output}: {kind} {name}, {len(plain.layers)} layers, rank {', '.join(map(str, ranks))}", soft_wrap=True
    )
