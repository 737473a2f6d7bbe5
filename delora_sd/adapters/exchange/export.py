"""An adapter as a plain LoRA: exact where the method is low-rank, else the best approximation of a chosen rank."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from delora_sd.adapters.exchange.formats import OWN_TYPE, load_adapter, read_adapter_config
from delora_sd.adapters.exchange.lora_files import PlainLayers, write_diffusers, write_kohya, write_peft
from delora_sd.adapters.exchange.merging import check_strength
from delora_sd.adapters.exchange.plain_lora import PlainLayer
from delora_sd.adapters.exchange.provenance import check_base_of, describe_adapter, find_run
from delora_sd.adapters.exchange.updates import check_shapes, find_adapter, load_updates
from delora_sd.adapters.full import FULL_TYPE
from delora_sd.adapters.lowrank.adapter import Adapter, layer_factors
from delora_sd.adapters.lowrank.balance import balanced
from delora_sd.adapters.lowrank.factors import Factors
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import ADAPTABLE
from delora_sd.adapters.lowrank.quantization import dense_weight
from delora_sd.adapters.peft.layout import PEFT_TYPES
from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import ExportConfig, ModelConfig, TrainConfig

SVD_RANK_FACTOR = 4
"""Rank of the approximation, in adapter ranks, where nothing was chosen."""

_DTYPES = {"fp16": torch.float16, "fp32": torch.float32}
_WRITERS = {"kohya": write_kohya, "diffusers": write_diffusers, "peft": write_peft}


@dataclass(frozen=True, kw_only=True)
class PlainLora:
    """Factors of every layer, ready to write; `energy` is the share of ||W' - W||^2 kept, {} when exact."""

    layers: PlainLayers
    lineage: dict[str, str]
    base: str
    energy: dict[str, float]


def export_adapter(config: ExportConfig) -> None:
    """Writes one file (kohya, diffusers) or folder (peft) and says what was kept.

    Raises:
        UserError: no adapter there, nowhere to write, a strength outside 0..2, or a base that cannot be loaded.
    """
    check_strength("strength", config.strength)
    if config.rank is not None and config.rank < 1:
        raise UserError(f"rank: {config.rank}; a rank is a whole number of at least 1")
    folder = _adapter_folder(config)
    output = _output(config, folder)
    plain = plain_lora_of(folder, strength=config.strength, rank=config.rank)
    provenance = describe_adapter(folder, plain.lineage, base=plain.base)
    _WRITERS[config.layout](output, plain.layers, _DTYPES[config.precision], provenance)
    _show(plain, output)


def export_defaults(run: RunFolder) -> list[Path]:
    """Writes the kohya and the diffusers file of a finished run into `export/`, fp16; returns their paths.

    A UNet that trained whole is no LoRA of any useful rank: nothing is written, `delora-sd merge` is for it.
    """
    if read_adapter_config(run.adapter)["peft_type"] == FULL_TYPE:
        return []
    plain = plain_lora_of(run.adapter, strength=1.0, rank=None)
    provenance = describe_adapter(run.adapter, plain.lineage, base=plain.base)
    paths = [export_path(run, layout) for layout in ("kohya", "diffusers")]
    for path, write in zip(paths, (write_kohya, write_diffusers), strict=True):
        write(path, plain.layers, torch.float16, provenance)
    return paths


def export_path(run: RunFolder, layout: str, *, step: int | None = None) -> Path:
    """Returns where a run's export goes: `export/NAME.kohya.safetensors`, a folder for peft."""
    name = run.path.resolve().name + ("" if step is None else f"-step{step:06d}")
    return run.export / (f"{name}.peft" if layout == "peft" else f"{name}.{layout}.safetensors")


def plain_lora_of(folder: Path, *, strength: float, rank: int | None) -> PlainLora:
    """Returns the factors of any adapter folder: exact for low-rank methods, by SVD at `rank` for the others.

    The base model is loaded only when the method needs its weights.
    """
    config = read_adapter_config(folder)
    base = str(config.get("base_model_name_or_path") or "")
    if config.get("peft_type") in (OWN_TYPE, *PEFT_TYPES):
        adapter = load_adapter(folder)
        method = METHODS[adapter.config.method]
        if method.exact_rank is not None:
            unet = load_base_unet(folder, base) if method.needs_weight else None
            layers = _exact_layers(adapter, unet, strength, source=folder)
            return PlainLora(layers=layers, lineage=_lineage(adapter, strength), base=base, energy={})
        lineage, rank = _lineage(adapter, strength), rank or SVD_RANK_FACTOR * adapter.config.rank
    else:
        lineage, rank = {"method": str(config.get("peft_type"))}, rank or SVD_RANK_FACTOR * _rank_of_run(folder)
    layers, energy = _approximate_layers(folder, load_base_unet(folder, base), strength, rank)
    return PlainLora(layers=layers, lineage=lineage | {"svd_rank": str(rank)}, base=base, energy=energy)


def load_base_unet(folder: Path, base: str) -> nn.Module:
    """Returns the frozen UNet an adapter belongs to, fp32 on the CPU: from its run's settings, else by its id."""
    from delora_sd.diffusion.parts import find_base, load_unet

    run = find_run(folder)
    if run is None and not base:
        raise UserError(f"{folder} does not say which base it belongs to, and its update needs the frozen weights")
    model = read_run_settings(run.config).model if run else ModelConfig(base=base)
    found = find_base(model)
    check_base_of(folder, found)
    return load_unet(found, device="cpu", dtype=torch.float32)


def _exact_layers(adapter: Adapter, unet: nn.Module | None, strength: float, *, source: Path) -> PlainLayers:
    specs, layers = adapter.specs(), {}
    if unet is not None:
        check_shapes({name: spec.shape for name, spec in specs.items()}, unet, source=source)
    for name, tensors in adapter.layer_tensors().items():
        weight = None if unet is None else dense_weight(unet.get_submodule(name)).flatten(1)
        factors = layer_factors(adapter.config, specs[name], tensors, weight)
        layers[name] = _plain_layer(factors, specs[name].shape, strength)
    return layers


def _plain_layer(factors: Factors, shape: tuple[int, ...], strength: float) -> PlainLayer:
    down, up, _ = balanced(Factors(factors.down, factors.up * strength))
    return PlainLayer(down=down.reshape(-1, *shape[1:]), up=up, magnitude=None)


@torch.no_grad()
def _approximate_layers(
    folder: Path, unet: nn.Module, strength: float, rank: int
) -> tuple[PlainLayers, dict[str, float]]:
    """Returns (factors, kept energy) per layer, by the SVD of each W' - W: no LoRA of that rank is closer."""
    layers, energy = {}, {}
    for parameter, update in load_updates(folder, unet).items():
        name, _, attribute = parameter.rpartition(".")
        layer = unet.get_submodule(name)
        if attribute == "weight" and isinstance(layer, ADAPTABLE):
            factors, energy[name] = _low_rank(update, dense_weight(layer), rank)
            layers[name] = _plain_layer(factors, tuple(layer.weight.shape), strength)
    return layers, energy


def _low_rank(update: Callable[[Tensor], Tensor], weight: Tensor, rank: int) -> tuple[Factors, float]:
    difference = update(weight.float()).flatten(1)
    left, singular, right = torch.linalg.svd(difference, full_matrices=False)
    kept = min(rank, len(singular))
    total = singular.square().sum().clamp_min(1e-30)
    share = (singular[:kept].square().sum() / total).item()
    return Factors(right[:kept], left[:, :kept] * singular[:kept]), share


def _lineage(adapter: Adapter, strength: float) -> dict[str, str]:
    config = adapter.config
    return {
        "method": config.method,
        "source_rank": str(config.rank),
        "init": config.init,
        "weight_norm": config.weight_norm,
        "lambda_init": f"{config.boundary} ({config.boundary_unit})",
        "strength": str(strength),
    }


def _rank_of_run(folder: Path) -> int:
    run = find_run(folder)
    return read_run_settings(run.config).adapter.rank if run else TrainConfig().adapter.rank


def _adapter_folder(config: ExportConfig) -> Path:
    if not config.run:
        raise UserError("run: missing; give a run folder or an adapter folder")
    path = Path(config.run).expanduser()
    if config.step is not None:
        run = RunFolder(path)
        if config.step not in run.checkpoint_steps():
            steps = ", ".join(map(str, run.checkpoint_steps())) or "none"
            raise UserError(f"step: {path} has no checkpoint of step {config.step}; it has {steps}")
        path = run.checkpoint(config.step)
        return path / "adapter" if (path / "adapter").is_dir() else path
    found = find_adapter(path)
    if found.is_file():
        raise UserError(f"run: {found} is a plain LoRA already; give a run folder or an adapter folder")
    return found


def _output(config: ExportConfig, folder: Path) -> Path:
    if config.output:
        output = Path(config.output).expanduser()
        if config.layout != "peft" and output.suffix != ".safetensors":
            raise UserError(f"output: {output}; a {config.layout} file ends with .safetensors")
        return output
    run = find_run(folder)
    if run is None:
        raise UserError(f"output: missing; {folder} lies in no run folder, so say where to write")
    return export_path(run, config.layout, step=config.step)


def _show(plain: PlainLora, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)  # paths and layer names are text, whatever brackets they hold
    if plain.energy:
        table = Table("layer", "rank", "kept energy", title="SVD of W' - W")
        for name, share in plain.energy.items():
            table.add_row(name, str(plain.layers[name].down.shape[0]), f"{share:.4f}")
        console.print(table)
        console.print(f"kept energy: lowest {min(plain.energy.values()):.4f}; `delora-sd merge` keeps everything")
    ranks = sorted({layer.down.shape[0] for layer in plain.layers.values()})
    kind = "approximate" if plain.energy else "exact"
    console.print(
        f"{output}: {kind} LoRA, {len(plain.layers)} layers, rank {', '.join(map(str, ranks))}", soft_wrap=True
    )
