"""Adapters on disk: PEFT's layout wherever PEFT can express the choice, ours beside an exact LoRA where it cannot.

Our settings travel in the safetensors metadata (`delora.*`), which PEFT ignores.
"""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from delora_sd.adapters.full import FullAdapter
from delora_sd.adapters.lowrank.adapter import Adapter, layer_factors
from delora_sd.adapters.lowrank.factors import balanced
from delora_sd.adapters.lowrank.methods import METHODS, LayerSpec, Tensors, start_layer
from delora_sd.adapters.peft import layout as peft_layout
from delora_sd.adapters.peft.layout import CONFIG_FILE, PEFT_FILE
from delora_sd.adapters.peft.methods import PeftAdapter
from delora_sd.config import load as settings_files
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.run_folder import read_json, write_folder, write_json
from delora_sd.files.tensors import read_tensors, refuse_pickle, write_tensors
from delora_sd.settings import AdapterConfig

OWN_FILE = "delora_sd_adapter.safetensors"
OWN_TYPE = "DELORA_SD"
"""A `peft_type` that PEFT does not know: it refuses the folder instead of loading something else."""

MAX_WEIGHTS = 100_000_000
"""No layer of a Stable Diffusion UNet has more (the largest has 30 million); a file that says so lies."""

_SPEC_FIELDS = {"rank": int, "alpha": float}
_ADVICE = "get the file again"

LORA_FOLDER = "lora"
"""Where PEFT finds the exact plain LoRA of an adapter that it cannot express."""


def save_adapter(adapter: Adapter | FullAdapter | PeftAdapter, folder: Path, *, base: str) -> None:
    """Writes the adapter's folder whole or not at all; `base` is the id of the model it belongs to.

    PEFT's layout, loadable by `PeftModel.from_pretrained`; where PEFT has no words for it (a frozen copy, ETHER, a
    DeLoRA convolution) a layout of ours that PEFT refuses, with the exact LoRA in `lora/` when no weight is needed.
    """
    if not isinstance(adapter, Adapter):
        adapter.save(folder, base=base)
        return
    reason = peft_layout.reason_not_expressible(adapter)

    def write(path: Path) -> None:
        if reason is None:
            _write_peft(adapter, path, base)
        else:
            _write_own(adapter, path, base, reason)

    write_folder(folder, write)


def _write_peft(adapter: Adapter, folder: Path, base: str) -> None:
    config, tensors = peft_layout.to_peft(adapter, base=base)
    write_tensors(folder / PEFT_FILE, tensors, _metadata(adapter, base))
    write_json(folder / CONFIG_FILE, config)


def _write_own(adapter: Adapter, folder: Path, base: str, reason: str) -> None:
    tensors = {
        f"{layer}.{name}": value for layer, named in adapter.layer_tensors().items() for name, value in named.items()
    }
    has_lora = not METHODS[adapter.config.method].needs_weight
    write_tensors(folder / OWN_FILE, tensors, _metadata(adapter, base) | {"delora.not_peft": reason})
    if has_lora:
        _write_exact_lora(adapter, folder / LORA_FOLDER, base)
    advice = f"load {LORA_FOLDER}/, the same update as a plain LoRA" if has_lora else "use `delora-sd export`"
    config = {
        "peft_type": OWN_TYPE,
        "base_model_name_or_path": base,
        "method": adapter.config.method,
        "init": adapter.config.init,
        "r": adapter.config.rank,
        "target_modules": sorted(adapter.config.target_modules),
        "why_not_peft": f"{reason}; with PEFT {advice}",
    }
    write_json(folder / CONFIG_FILE, config)


def _write_exact_lora(adapter: Adapter, folder: Path, base: str) -> None:
    tensors, specs, ranks = {}, adapter.specs(), {}
    for layer, named in adapter.layer_tensors().items():
        down, up, _ = balanced(layer_factors(adapter.config, specs[layer], named))
        kernel = specs[layer].shape[2:]
        prefix = f"{peft_layout.PREFIX}{layer}"
        tensors[f"{prefix}.lora_A.weight"] = down.reshape(-1, *specs[layer].shape[1:])
        tensors[f"{prefix}.lora_B.weight"] = up.reshape(*up.shape, *(1 for _ in kernel))
        ranks[layer] = down.shape[0]
    write_tensors(folder / PEFT_FILE, tensors, {"format": "pt"})
    targets = list(peft_layout.written_targets(adapter))
    write_json(folder / CONFIG_FILE, peft_layout.lora_config(ranks, base=base, targets=targets))


def _metadata(adapter: Adapter, base: str) -> dict[str, str]:
    specs = {layer: _written_spec(spec) for layer, spec in adapter.specs().items()}
    return {
        "format": "pt",
        "delora.base": base,
        "delora.config": json.dumps(settings_files.to_dict(adapter.config), sort_keys=True),
        "delora.layers": json.dumps(specs, sort_keys=True),
    }


def _written_spec(spec: LayerSpec) -> dict[str, Any]:
    """Slices are named only where there are some: files of other layers stay what they were."""
    return {name: value for name, value in asdict(spec).items() if name != "rows" or value}


def restore_adapter(adapter: Adapter | FullAdapter | PeftAdapter, folder: Path) -> None:
    """Fills a living adapter with the tensors of a folder that `save_adapter` wrote, bit for bit."""
    if isinstance(adapter, Adapter):
        saved = load_adapter(folder).layer_tensors()
        if _shapes(saved) != _shapes(adapter.layer_tensors()):
            raise UserError(f"{folder}: the adapter of another training; delete {folder.parent} and train again")
        adapter.copy_from(saved)
    else:
        adapter.restore(folder)


def _shapes(layers: dict[str, Tensors]) -> dict[str, dict[str, tuple[int, ...]]]:
    return {layer: {name: tuple(value.shape) for name, value in named.items()} for layer, named in layers.items()}


def load_adapter(folder: Path) -> Adapter:
    """Returns the adapter of a folder that we or PEFT wrote (DeLoRA, LoRA, DoRA), fp32.

    Raises:
        UserError: not an adapter folder, a pickle, a broken file, a method we do not have, shapes that do not fit.
    """
    config = read_adapter_config(folder)
    kind = config.get("peft_type")
    if kind != OWN_TYPE and kind not in peft_layout.PEFT_TYPES:
        known = ", ".join(peft_layout.PEFT_TYPES)
        raise UserError(f"{folder / CONFIG_FILE}: peft_type '{kind}' is not one of {known}")
    file = folder / (OWN_FILE if kind == OWN_TYPE else PEFT_FILE)
    tensors, metadata = read_tensors(file)
    if kind == OWN_TYPE:
        return _from_own(tensors, metadata, source=str(file))
    adapter = peft_layout.from_peft(config, tensors, source=str(folder))
    if "delora.config" not in metadata:
        return adapter
    ours, specs = _settings(metadata, source=str(file))
    _check_tensors(ours, specs, adapter.layer_tensors(), source=str(file))
    return Adapter(ours, specs, adapter.layer_tensors())


def read_adapter_config(folder: Path) -> dict[str, Any]:
    """Returns adapter_config.json. Raises UserError when the folder holds none, or only a pickle."""
    if not folder.is_dir():
        raise UserError(f"{folder} is no adapter folder: it does not exist")
    if not (folder / CONFIG_FILE).exists():
        found = ", ".join(sorted(path.name for path in folder.iterdir())[:5]) or "nothing"
        raise UserError(f"{folder} is no adapter folder: expected {CONFIG_FILE}, found {found}")
    for pickle in folder.glob("adapter_model.*"):
        refuse_pickle(pickle)
    config = read_json(folder / CONFIG_FILE)
    if not isinstance(config, dict):
        raise UserError(f"{folder / CONFIG_FILE}: expected settings, found {type(config).__name__}")
    return config


def _from_own(tensors: dict[str, Tensor], metadata: dict[str, str], *, source: str) -> Adapter:
    config, specs = _settings(metadata, source=source)
    layers: dict[str, Tensors] = {}
    for key, value in tensors.items():
        layer, _, name = key.rpartition(".")
        layers.setdefault(layer, {})[name] = value
    _check_tensors(config, specs, layers, source=source)
    return Adapter(config, specs, {layer: layers[layer] for layer in specs})


def _settings(metadata: dict[str, str], *, source: str) -> tuple[AdapterConfig, dict[str, LayerSpec]]:
    try:
        values, layers = json.loads(metadata["delora.config"]), json.loads(metadata["delora.layers"])
    except (KeyError, ValueError, RecursionError) as error:
        raise UserError(f"{source}: the metadata does not describe the adapter ({error!r}); {_ADVICE}") from None
    check_record(layers, {}, source=f"{source}: delora.layers", advice=_ADVICE)
    specs = {layer: _read_spec(spec, f"{source}: layer {layer[:80]}") for layer, spec in layers.items()}
    config = settings_files.from_dict(AdapterConfig, values, source=source)
    if config.method not in METHODS:
        raise UserError(f"{source}: unknown method '{config.method}'")
    return config, specs


def _read_spec(values: Any, source: str) -> LayerSpec:
    """Returns the settings of a layer as a file says them, as long as such a layer can be."""
    check_record(values, _SPEC_FIELDS, source=source, advice=_ADVICE)
    is_fused = bool(values.get("rows"))
    if not is_fused:
        check_record(values, {"boundary": float}, source=source, advice=_ADVICE)
    shape = values.get("shape")
    is_shape = (
        isinstance(shape, list) and len(shape) in (2, 4) and all(type(side) is int and side > 0 for side in shape)
    )
    if not is_shape or math.prod(shape) > MAX_WEIGHTS:
        raise UserError(f"{source}: no layer has the shape {str(shape)[:80]}; {_ADVICE}")
    rows, boundaries = _read_slices(values, shape[0], source) if is_fused else ((), (values["boundary"],))
    numbers = [*boundaries, values["alpha"]]
    if values["rank"] < 1 or not all(abs(number) < 1e9 for number in numbers):
        raise UserError(f"{source}: no layer has rank {values['rank']}, boundary and alpha {numbers}; {_ADVICE}")
    boundary = boundaries if is_fused else boundaries[0]
    return LayerSpec(shape=tuple(shape), rank=values["rank"], boundary=boundary, alpha=values["alpha"], rows=rows)


def _read_slices(values: dict, num_rows: int, source: str) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Returns (output rows, initial boundary) of each slice of a fused layer."""
    rows, boundaries = values["rows"], values.get("boundary")
    are_rows = isinstance(rows, list) and all(type(count) is int and count > 0 for count in rows)
    if not are_rows or sum(rows) != num_rows:
        raise UserError(f"{source}: slices of {str(rows)[:80]} rows in a layer of {num_rows}; {_ADVICE}")
    are_numbers = isinstance(boundaries, list) and all(type(number) in (int, float) for number in boundaries)
    if not are_numbers or len(boundaries) != len(rows):
        raise UserError(f"{source}: boundary {str(boundaries)[:80]} of {len(rows)} slices; {_ADVICE}")
    return tuple(rows), tuple(map(float, boundaries))


def _check_tensors(
    config: AdapterConfig, specs: dict[str, LayerSpec], layers: dict[str, Tensors], *, source: str
) -> None:
    """Raises UserError unless the file holds, layer by layer, the tensors that a fresh adapter would have."""
    if differing := sorted(set(specs) ^ set(layers)):
        raise UserError(f"{source}: the metadata and the tensors name different layers, such as {differing[0]}")
    for layer, spec in specs.items():
        flat = (spec.shape[0], math.prod(spec.shape[1:]))
        if METHODS[config.method].uses_rank and spec.rank > min(flat):  # or a lie would fill the memory
            raise UserError(f"{source}: layer {layer}: no rank {spec.rank} in a layer of shape {spec.shape}; {_ADVICE}")
        weight = torch.zeros(()).expand(spec.shape).flatten(1)
        fresh = start_layer(spec, config, weight, torch.Generator())
        expected, found = (_shapes({layer: named})[layer] for named in (fresh, layers[layer]))
        if expected != found:
            raise UserError(f"{source}: layer {layer} holds {found}, expected {expected}; {_ADVICE}")
