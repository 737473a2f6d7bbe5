"""Several adapters of one base as one plain LoRA: the exact sum of their updates, by concatenated factors."""

import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch

from delora_sd.adapters.exchange.export.as_lora import PlainLora, plain_lora_of
from delora_sd.adapters.exchange.export.interference import WHOLE, Interference, measure_interference
from delora_sd.adapters.exchange.merge.merging import check_strength
from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer
from delora_sd.adapters.exchange.plain_lora.writing import PlainLayers, Provenance, write_layout
from delora_sd.adapters.exchange.stored.inputs import base_choice, find_adapter
from delora_sd.adapters.exchange.stored.provenance import describe_adapter, find_run
from delora_sd.adapters.lowrank.factors import Factors, merged_terms
from delora_sd.diffusion.bases import place_of_base
from delora_sd.errors import UserError
from delora_sd.settings import CombineConfig


@dataclass(frozen=True, kw_only=True)
class Part:
    """One adapter of the sum, its update at its strength."""

    path: Path
    strength: float
    plain: PlainLora
    provenance: Provenance

    @property
    def error(self) -> float:
        """||dW - its factors||_F / ||dW||_F; 0 of a method with exact factors."""
        return _relative(self.lost, self.plain.layers)

    @property
    def lost(self) -> float:
        """||dW - its factors||_F^2: what the SVD of a method without exact factors left out."""
        squares = {name: _square(self.plain.layers[name]) for name in self.plain.energy}
        return sum(squares[name] * (1 - share) / max(share, 1e-30) for name, share in self.plain.energy.items())


@dataclass(frozen=True, kw_only=True)
class Combination:
    """The sum of the parts."""

    parts: list[Part]
    layers: PlainLayers
    lost: float
    """||sum - what is kept||_F^2 of the reduction to `rank`; 0 without one."""
    interference: list[Interference]

    @property
    def error(self) -> float:
        """||sum of updates - layers||_F / ||sum||_F, at most: the parts' own errors and the reduction's, added up."""
        lost = math.sqrt(self.lost) + sum(math.sqrt(part.lost) for part in self.parts)
        return _relative(lost**2, self.layers)


def combine_adapters(config: CombineConfig) -> None:
    """Writes one LoRA with the sum of the adapters, and shows how much they interfere and what was lost.

    Raises:
        UserError: fewer than two adapters, adapters of two bases, a strength outside 0..2, or nowhere to write.
    """
    paths, output = _inputs(config), _output(config)
    combination = combine(paths, config)
    provenance = _describe(combination, output)
    write_layout(output, combination.layers, provenance, layout=config.layout, precision=config.precision)
    _show(combination, output)


@torch.no_grad()
def combine(paths: dict[Path, float], config: CombineConfig) -> Combination:
    """Returns the sum of strength x update over {adapter: strength}; the base is loaded where an update needs it."""
    choice, parts = base_choice(config.model), []
    for path, strength in paths.items():
        plain = plain_lora_of(path, strength=strength, rank=None, choice=choice)
        provenance = describe_adapter(path, plain.lineage, base=plain.base)
        parts.append(Part(path=path, strength=strength, plain=plain, provenance=provenance))
    if not choice.is_named:
        _check_one_base(parts)
    _check_shapes(parts)
    layers, lost = {}, 0.0
    for name in dict.fromkeys(name for part in parts for name in part.plain.layers):
        own = [part.plain.layers[name] for part in parts if name in part.plain.layers]
        layers[name], cut = _sum_layer(own, config.rank)
        lost += cut
    interference = measure_interference([part.plain.layers for part in parts])
    return Combination(parts=parts, layers=layers, lost=lost, interference=interference)


def _sum_layer(layers: list[PlainLayer], rank: int | None) -> tuple[PlainLayer, float]:
    """Returns (the sum, what `rank` cut off): concatenated factors in orthogonal terms of falling size."""
    down = torch.cat([layer.down.flatten(1) for layer in layers])
    merged, singular = merged_terms(Factors(down, torch.cat([layer.up for layer in layers], dim=1)))
    kept = merged.down[:rank].reshape(-1, *layers[0].down.shape[1:])
    cut = 0.0 if rank is None else singular[rank:].square().sum().item()
    return PlainLayer(down=kept, up=merged.up[:, :rank]), cut


def _inputs(config: CombineConfig) -> dict[Path, float]:
    """Returns {adapter: strength}, in the order given."""
    if len(config.adapters) < 2:
        raise UserError(f"adapters: {len(config.adapters)} given; usage: delora-sd combine A B ... output=FILE")
    strengths = config.strengths or (1.0,) * len(config.adapters)
    if len(strengths) != len(config.adapters):
        raise UserError(f"strengths: {len(strengths)} for {len(config.adapters)} adapters; give one each, or none")
    if config.rank is not None and config.rank < 1:
        raise UserError(f"rank: {config.rank}; a rank is a whole number of at least 1")
    found: dict[Path, float] = {}
    for name, strength in zip(config.adapters, strengths, strict=True):
        check_strength(f"strengths of {name}", strength)
        if strength == 0:
            raise UserError(f"strengths of {name}: 0 leaves it out; leave it out of the command")
        path = find_adapter(Path(name))
        if path.resolve() in [known.resolve() for known in found]:
            raise UserError(f"adapters: {name} is given twice; give it once, with a higher strength")
        found[path] = strength
    return found


def _output(config: CombineConfig) -> Path:
    if not config.output:
        raise UserError("output: missing; say where to write, such as output=both.safetensors")
    output = Path(config.output).expanduser()
    if config.layout != "peft" and output.suffix != ".safetensors":
        raise UserError(f"output: {output}; a {config.layout} file ends with .safetensors")
    if output.exists():
        raise UserError(f"output: {output} exists; give a new name, or delete it")
    return output


def _check_one_base(parts: list[Part]) -> None:
    """By contents where runs know them, else by name; an adapter that says neither is taken at its shapes."""
    known = [(part.path, _fingerprint(part.path), part.plain.base and place_of_base(part.plain.base)) for part in parts]
    for position, (path, contents, name) in enumerate(known):
        for other, other_contents, other_name in known[:position]:
            comparable = (contents, other_contents) if contents and other_contents else (name, other_name)
            if all(comparable) and comparable[0] != comparable[1]:
                which = name if name != other_name else f"{name} with other contents"
                raise UserError(
                    f"{other} belongs to {other_name}, {path} to {which}; "
                    "adapters of two bases cannot be added up (model.base=NAME says that one base is meant)"
                )


def _fingerprint(adapter: Path) -> str | None:
    run = None if adapter.is_file() else find_run(adapter)
    return run.read_manifest().get("base", {}).get("fingerprint") if run else None


def _check_shapes(parts: list[Part]) -> None:
    shapes: dict[str, tuple[Path, tuple[int, ...]]] = {}
    for part in parts:
        for name, layer in part.plain.layers.items():
            path, shape = shapes.setdefault(name, (part.path, layer.weight_shape))
            if math.prod(shape) != math.prod(layer.weight_shape) or shape[:2] != layer.weight_shape[:2]:
                raise UserError(
                    f"{path} and {part.path} were made for two bases: {name} is {shape} in one, "
                    f"{layer.weight_shape} in the other"
                )


def _describe(combination: Combination, output: Path) -> Provenance:
    """Returns what the file says of itself: every part with its strength, all their trigger words."""
    said = [part.provenance for part in combination.parts]
    sizes = {each.size_px for each in said}
    parts = [{"name": each.title, **each.lineage} for each in said]
    lineage = {"method": "combined", "parts": json.dumps(parts, sort_keys=True)}
    if combination.error:
        lineage["relative_error"] = f"{combination.error:.3g}"
    return Provenance(
        title=output.stem,
        base=next((each.base for each in said if each.base), ""),
        date=max(each.date for each in said),
        size_px=sizes.pop() if len(sizes) == 1 else None,
        trigger=", ".join(dict.fromkeys(each.trigger for each in said if each.trigger)),
        is_v_prediction=any(each.is_v_prediction for each in said),
        training={},
        lineage=lineage,
    )


def _square(layer: PlainLayer) -> float:
    down, up = layer.down.flatten(1).double(), layer.up.double()
    return max(((down @ down.mT) * (up.mT @ up)).sum().item(), 0.0)


def _relative(lost: float, kept: PlainLayers) -> float:
    total = lost + sum(map(_square, kept.values()))
    return math.sqrt(lost / total) if total else 0.0


def _show(combination: Combination, output: Path) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(markup=False, emoji=False)  # paths are text, whatever brackets they hold
    names = [chr(ord("A") + position) for position in range(len(combination.parts))]
    for name, part in zip(names, combination.parts, strict=True):
        error = f"closest LoRA, relative error {part.error:.2g}" if part.plain.energy else "exact"
        console.print(f"{name}  {part.path} at strength {part.strength:g}: {error}", soft_wrap=True)
    table = Table("block", "pair", "norms", "cosine", "rows shared", "columns shared", title="How much they interfere")
    for row in combination.interference:
        pair = " ".join(names[position] for position in row.pair)
        norms = " ".join(f"{norm:.3g}" for norm in row.norms)
        numbers = [f"{value:.3f}" for value in (row.cosine, row.row_overlap, row.column_overlap)]
        table.add_row(row.block, pair, norms, *numbers, style="bold" if row.block == WHOLE else "")
    console.print(table)
    twice = [
        word for word, count in Counter(part.provenance.trigger for part in combination.parts).items() if count > 1
    ]
    for word in filter(None, twice):
        console.print(f"two of them answer to '{word}': no prompt can tell them apart", soft_wrap=True)
    ranks = sorted({layer.down.shape[0] for layer in combination.layers.values()})
    kind = f"relative error at most {combination.error:.2g}" if combination.error else "the exact sum"
    said = f"{output}: {kind}, {len(combination.layers)} layers, rank {', '.join(map(str, ranks))}"
    console.print(said, soft_wrap=True)
