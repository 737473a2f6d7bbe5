"""Any adapter as the factors of a plain LoRA: exact where the update is low-rank, else the closest of a chosen rank."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from delora_sd.adapters.exchange.merge.updates import check_shapes, has_own_formula, load_updates
from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer, read_plain_lora, warn_of_unused
from delora_sd.adapters.exchange.plain_lora.writing import PlainLayers
from delora_sd.adapters.exchange.stored.formats import load_adapter, read_adapter_config
from delora_sd.adapters.exchange.stored.inputs import BaseChoice, model_of
from delora_sd.adapters.exchange.stored.provenance import check_base_of, find_run
from delora_sd.adapters.lowrank.adapter import Adapter, layer_factors
from delora_sd.adapters.lowrank.factors import Factors, lora_factors, merged_terms, row_norms
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import ADAPTABLE
from delora_sd.config.deciding import read_run_settings
from delora_sd.errors import UserError
from delora_sd.quantization import dense_weight
from delora_sd.settings import ModelConfig, TrainConfig

UNNAMED = BaseChoice(model=ModelConfig(), is_named=False)

SVD_RANK_FACTOR = 4
"""Rank of the approximation, in adapter ranks, where nothing was chosen."""

_SMALLEST_ROW = 0.05
"""A row of DoRA scaled by strength must keep this share of the frozen row, or its direction cannot be divided out."""


class NoPlainLora(UserError):
    """The adapter changes more than a plain LoRA can hold."""


@dataclass(frozen=True, kw_only=True)
class PlainLora:
    """Factors of every layer, ready to write; `energy` is the share of ||W' - W||^2 kept, {} when exact."""

    layers: PlainLayers
    lineage: dict[str, str]
    base: str
    energy: dict[str, float]


def plain_lora_of(
    adapter: Path,
    *,
    strength: float,
    rank: int | None,
    choice: BaseChoice = UNNAMED,
    with_magnitude: bool = False,
) -> PlainLora:
    """Returns the factors of an adapter folder or a plain LoRA file; the base is loaded only when its weights decide.

    Args:
        rank: Of the result: the closest LoRA of that rank; none: the exact one, or an SVD where there is none.
        with_magnitude: DoRA keeps its magnitude, exactly, for layouts that know one; else it is an SVD.

    Raises:
        NoPlainLora: it also changes biases.
    """
    model = model_of(adapter, choice)

    def load_base() -> nn.Module:
        return load_base_unet(adapter, model, is_named=choice.is_named)

    base = model.base if model else ""
    if adapter.is_file():
        layers, unused = read_plain_lora(adapter, _adaptable(_architecture(model)))
        warn_of_unused(adapter, unused)
        lineage, own_rank = {}, max(layer.down.shape[0] for layer in layers.values())
    elif has_own_formula(read_adapter_config(adapter)):
        own = load_adapter(adapter)
        lineage, own_rank = _lineage(own), own.config.rank
        layers = _own_layers(own, load_base, source=adapter) if _is_low_rank(own) else {}
    else:
        kind = str(read_adapter_config(adapter).get("peft_type"))
        layers, lineage, own_rank = {}, {"method": kind}, _rank_of_run(adapter)
    lineage |= {"strength": str(strength)}
    if layers and _is_exact(layers, with_magnitude):
        scaled = _at_strength(layers, strength, load_base, source=adapter)
        kept, energy = _at_rank(scaled, rank)
    else:
        rank = rank or SVD_RANK_FACTOR * own_rank
        kept, energy = _approximate_layers(adapter, load_base(), strength, rank)
    lineage |= {"svd_rank": str(rank)} if energy else {}
    return PlainLora(layers=kept, lineage=lineage, base=base, energy=energy)


def load_base_unet(adapter: Path, model: ModelConfig | None, *, is_named: bool) -> nn.Module:
    """Returns the frozen UNet an adapter belongs to, fp32 on the CPU; one that nobody named must be as in training."""
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser

    if model is None:
        raise UserError(
            f"{adapter} does not say which base it belongs to, and its update needs the frozen weights; "
            "name the base: model.base=..."
        )
    base = find_base(model)
    if not is_named:
        check_base_of(adapter, base)
    return load_denoiser(base, device="cpu", dtype=torch.float32)


def _architecture(model: ModelConfig | None) -> nn.Module:
    """The layers' names without their weights; where nobody names a base, those of Stable Diffusion."""
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser

    return load_denoiser(find_base(model or ModelConfig(base="sd15-architecture")), device="meta", dtype=torch.float32)


def _adaptable(unet: nn.Module) -> list[str]:
    return [name for name, module in unet.named_modules() if isinstance(module, ADAPTABLE)]


def _is_low_rank(adapter: Adapter) -> bool:
    return METHODS[adapter.config.method].exact_rank is not None or adapter.config.method == "dora"


def _is_exact(layers: PlainLayers, with_magnitude: bool) -> bool:
    has_magnitude = [layer.magnitude is not None for layer in layers.values()]
    is_dora = all(has_magnitude) and not any(layer.is_along_inputs for layer in layers.values())
    return not any(has_magnitude) or (with_magnitude and is_dora)


def _own_layers(adapter: Adapter, load_base: Callable[[], nn.Module], *, source: Path) -> PlainLayers:
    specs, layers, config = adapter.specs(), {}, adapter.config
    unet = load_base() if METHODS[config.method].needs_weight and config.method != "dora" else None
    if unet is not None:
        check_shapes({name: spec.shape for name, spec in specs.items()}, unet, source=source)
    for name, tensors in adapter.layer_tensors().items():
        shape, magnitude = specs[name].shape, None
        if config.method == "dora":
            factors = lora_factors(tensors["A"], tensors["B"], alpha=specs[name].alpha)
            magnitude = tensors["magnitude"]
        else:
            weight = None if unet is None else dense_weight(unet.get_submodule(name)).flatten(1)
            factors = layer_factors(config, specs[name], tensors, weight)
        down = factors.down.reshape(-1, *shape[1:])
        layers[name] = PlainLayer(down=down, up=factors.up, magnitude=magnitude)
    return layers


@torch.no_grad()
def _at_strength(
    layers: PlainLayers, strength: float, load_base: Callable[[], nn.Module], *, source: Path
) -> PlainLayers:
    if any(layer.bias is not None for layer in layers.values()):
        raise NoPlainLora(f"{source} also adds to biases, which not every loader applies; use `delora-sd merge`")
    if strength == 1:
        return layers
    if all(layer.magnitude is None for layer in layers.values()):
        return {name: replace(layer, up=layer.up * strength) for name, layer in layers.items()}
    unet = load_base()
    check_shapes({name: layer.weight_shape for name, layer in layers.items()}, unet, source=source)
    return {
        name: _dora_at_strength(layer, strength, dense_weight(unet.get_submodule(name)).flatten(1), name)
        for name, layer in layers.items()
    }


def _dora_at_strength(layer: PlainLayer, strength: float, weight: Tensor, name: str) -> PlainLayer:
    """Returns the DoRA whose change is `strength` times this one's: W + s (k (W + B A) - W) = c (W + (s k / c) B A).

    Row by row, with k = m / ||W + B A|| and c = 1 - s + s k; the new magnitude is c ||W + (s k / c) B A||.
    """
    down = layer.down.flatten(1)
    gain = strength * layer.magnitude / row_norms(down, layer.up, weight)
    share = 1 - strength + gain
    if share.min() < _SMALLEST_ROW:
        raise UserError(f"strength: {strength} turns rows of {name} around, which DoRA cannot hold; merge, or lower it")
    up = layer.up * (gain / share).unsqueeze(1)
    return replace(layer, up=up, magnitude=share * row_norms(down, up, weight))


@torch.no_grad()
def _at_rank(layers: PlainLayers, rank: int | None) -> tuple[PlainLayers, dict[str, float]]:
    """Returns (factors ready for half precision, kept energy of B A per layer where `rank` cut something off)."""
    kept, energy = {}, {}
    for name, layer in layers.items():
        factors, singular = merged_terms(Factors(layer.down.flatten(1), layer.up))
        if rank is not None and rank < len(singular):
            energy[name] = _share(singular, rank)
            factors = Factors(factors.down[:rank], factors.up[:, :rank])
        kept[name] = replace(layer, down=factors.down.reshape(-1, *layer.down.shape[1:]), up=factors.up)
    return kept, energy


@torch.no_grad()
def _approximate_layers(
    folder: Path, unet: nn.Module, strength: float, rank: int
) -> tuple[PlainLayers, dict[str, float]]:
    """Returns (factors, kept energy) per layer, by the SVD of each W' - W: no LoRA of that rank is closer."""
    layers, energy = {}, {}
    updates = load_updates(folder, unet)
    others = [name for name in updates if not _is_layer_weight(name, unet)]
    if others:
        said = f"{folder} also changes {len(others)} biases and other tensors, which no plain LoRA holds"
        raise NoPlainLora(f"{said}; `delora-sd merge` keeps everything")
    for parameter, update in updates.items():
        name = parameter.removesuffix(".weight")
        weight = dense_weight(unet.get_submodule(name))
        left, singular, right = torch.linalg.svd(update(weight.float()).flatten(1) * strength, full_matrices=False)
        root, energy[name] = singular[:rank].sqrt(), _share(singular, rank)
        down = (root.unsqueeze(1) * right[:rank]).reshape(-1, *weight.shape[1:])
        layers[name] = PlainLayer(down=down, up=left[:, :rank] * root)
    return layers, energy


def _is_layer_weight(parameter: str, unet: nn.Module) -> bool:
    name, _, attribute = parameter.rpartition(".")
    return attribute == "weight" and isinstance(unet.get_submodule(name), ADAPTABLE)


def _share(singular: Tensor, rank: int) -> float:
    """Returns the share of the squared norm that the first `rank` singular values hold."""
    squares = singular.double().square()
    return (squares[:rank].sum() / squares.sum().clamp_min(1e-30)).item()


def _lineage(adapter: Adapter) -> dict[str, str]:
    """Returns what is said of the native adapter, as far as it applies to its method."""
    config, method = adapter.config, METHODS[adapter.config.method]
    said = {"method": config.method}
    if method.uses_rank:
        said["source_rank"] = str(config.rank)
    if config.method in ("delora", "normalized_lora"):
        said["init"] = config.init
    if config.method == "delora":
        said["weight_norm"] = config.weight_norm
    if "boundary" in method.trained:
        said["lambda_init"] = f"{config.boundary} ({config.boundary_unit})"
    return said


def _rank_of_run(folder: Path) -> int:
    run = find_run(folder)
    return read_run_settings(run.config).adapter.rank if run else TrainConfig().adapter.rank
