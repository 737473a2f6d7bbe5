"""Plain LoRA files for other tools: key names of the three layouts, and what they read in the metadata.

The scale is folded into the factors and alpha = rank, so no reader's default can change it. Where ranks differ, one
alpha for the whole file: diffusers (0.42) ignores the alpha of each attention layer and uses the commonest for all.
"""

import hashlib
import json
import math
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from delora_sd.adapters.exchange.plain_lora.reading import PlainLayer
from delora_sd.adapters.lowrank.factors import Factors, stacked_rows
from delora_sd.adapters.peft import layout as peft_layout
from delora_sd.diffusion.families.family import ExportNames, Family, Shapes
from delora_sd.diffusion.families.table import family_of_layers
from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_folder, write_json
from delora_sd.files.tensors import header_bytes, stored_order, tensor_bytes, write_tensors

PlainLayers = dict[str, PlainLayer]
"""{dotted name of the layer: its factors}"""

MODEL_SPEC_VERSION = "1.0.1"
_LEGACY_HASH_BYTES = slice(0x100000, 0x110000)
"""What AUTOMATIC1111's first "model hash" looked at."""


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """What is said about an adapter in its file; empty strings and {} where nothing is known."""

    title: str
    base: str
    date: str
    """When it was trained, ISO 8601."""
    size_px: int | None
    trigger: str
    """Identifier and class word: what a prompt must say to call the subject."""
    is_v_prediction: bool
    training: dict[str, str]
    """`ss_*`: how it was trained."""
    lineage: dict[str, str]
    """`delora.*`: back to the native adapter."""


def write_layout(path: Path, layers: PlainLayers, provenance: Provenance, *, layout: str, precision: str) -> None:
    """Writes the layers as a `kohya` or `diffusers` file or a `peft` folder, in fp16 or fp32."""
    write = {"kohya": write_kohya, "diffusers": write_diffusers, "peft": write_peft}[layout]
    write(path, layers, {"fp16": torch.float16, "fp32": torch.float32}[precision], provenance)


def write_kohya(path: Path, layers: PlainLayers, dtype: torch.dtype, provenance: Provenance) -> None:
    """Writes `lora_unet_<layer with _>.lora_down/.lora_up.weight` and `.alpha`: ComfyUI, A1111, Forge, diffusers."""
    tensors, alpha = {}, kohya_alpha(layers)
    for key, factors in kohya_layers(layers).items():
        share = math.sqrt(factors.down.shape[0] / alpha)  # readers multiply by alpha / rank
        scaled = PlainLayer(down=factors.down * share, up=factors.up * share)
        tensors[f"{key}.lora_down.weight"], tensors[f"{key}.lora_up.weight"] = _weights(scaled, dtype)
        tensors[f"{key}.alpha"] = torch.tensor(float(alpha))
        if factors.magnitude is not None:
            tensors[f"{key}.dora_scale"] = factors.magnitude.reshape(-1, *(1 for _ in factors.down.shape[1:]))
    write_tensors(path, tensors, file_metadata(layers, tensors, provenance))


def kohya_layers(layers: PlainLayers) -> PlainLayers:
    """Returns the layers under their names in a kohya file; those that are one matrix there are put together, exactly.

    Raises:
        UserError: a DoRA on a part of such a matrix: its scale would be needed of the other parts.
    """
    export = family_of_layers(_shapes(layers)).export
    groups: dict[str, list[PlainLayer | None]] = {}
    for layer in layers:
        part, num_parts = export.kohya_part(layer)
        groups.setdefault(export.kohya_key(layer), [None] * num_parts)[part] = layers[layer]
    return {key: parts[0] if len(parts) == 1 else _put_together(key, parts) for key, parts in groups.items()}


def _put_together(key: str, parts: list[PlainLayer | None]) -> PlainLayer:
    """Returns equal parts by rows as one layer; a part that is not adapted adds nothing."""
    given = next(part for part in parts if part is not None)
    magnitudes = [None if part is None else part.magnitude for part in parts]
    if any(value is None for value in magnitudes) and any(value is not None for value in magnitudes):
        raise UserError(f"{key}: only a part of this matrix has a DoRA scale; adapt q, k and v alike, or merge")
    rows = given.up.shape[0]
    nothing = Factors(given.down[:0], given.up.new_zeros(rows, 0))
    factors = stacked_rows([nothing if part is None else Factors(part.down, part.up) for part in parts])
    magnitude = None if magnitudes[0] is None else torch.cat(magnitudes)
    return PlainLayer(down=factors.down, up=factors.up, magnitude=magnitude)


def kohya_alpha(layers: PlainLayers) -> int:
    """Returns the one alpha of a kohya file: the rank, the largest where ranks differ; matrices put together count."""
    export, ranks = family_of_layers(_shapes(layers)).export, Counter()
    for layer, factors in layers.items():
        ranks[export.kohya_key(layer)] += factors.down.shape[0]
    return max(ranks.values())


def write_diffusers(path: Path, layers: PlainLayers, dtype: torch.dtype, provenance: Provenance) -> None:
    """Writes `<denoiser>.<layer>.lora_A/.lora_B.weight` with the LoraConfig in the header: pipe.load_lora_weights."""
    tensors, part = {}, family_of_layers(_shapes(layers)).denoiser
    for layer, factors in layers.items():
        tensors |= _peft_tensors(f"{part}.{layer}", factors, dtype)
    config = _lora_config(layers, provenance.base)
    # diffusers hands these to LoraConfig(**...): nothing else may be in it.
    kept = ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_dora")
    declared = {f"{part}.{key}": config[key] for key in kept}
    metadata = file_metadata(layers, tensors, provenance)
    write_tensors(path, tensors, metadata | {"lora_adapter_metadata": json.dumps(declared, sort_keys=True)})


def write_peft(folder: Path, layers: PlainLayers, dtype: torch.dtype, provenance: Provenance) -> None:
    """Writes an adapter folder for `PeftModel.from_pretrained`, whole or not at all."""
    tensors = {}
    for layer, factors in layers.items():
        tensors |= _peft_tensors(f"{peft_layout.PREFIX}{layer}", factors, dtype)

    def write(path: Path) -> None:
        write_tensors(path / peft_layout.PEFT_FILE, tensors, file_metadata(layers, tensors, provenance))
        write_json(path / peft_layout.CONFIG_FILE, _lora_config(layers, provenance.base))

    write_folder(folder, write)


def _peft_tensors(key: str, factors: PlainLayer, dtype: torch.dtype) -> dict[str, Tensor]:
    """Returns a layer in PEFT's and diffusers' names.

    A magnitude stays fp32: it is of the size of W, and rounded to fp16 it would be off by more than small changes are.
    """
    down, up = _weights(factors, dtype)
    tensors = {f"{key}.lora_A.weight": down, f"{key}.lora_B.weight": up}
    if factors.magnitude is not None:
        shape = (-1,) if down.ndim == 2 else (1, -1, *(1 for _ in down.shape[2:]))
        tensors[f"{key}.lora_magnitude_vector"] = factors.magnitude.float().reshape(shape)
    return tensors


def _weights(factors: PlainLayer, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Returns (down, up); of a convolution, down keeps the kernel and up is 1 x 1."""
    up = factors.up.reshape(*factors.up.shape, *(1 for _ in factors.down.shape[2:]))
    return factors.down.to(dtype), up.to(dtype)


def _lora_config(layers: PlainLayers, base: str) -> dict[str, Any]:
    ranks = {layer: factors.down.shape[0] for layer, factors in layers.items()}
    use_dora = any(factors.magnitude is not None for factors in layers.values())
    return peft_layout.lora_config(ranks, base=base, targets=list(layers)) | {"use_dora": use_dora}


def file_metadata(layers: PlainLayers, tensors: dict[str, Tensor], provenance: Provenance) -> dict[str, str]:
    """Returns the header's strings: ModelSpec, kohya's `ss_*` and hashes, and ours."""
    shapes = _shapes(layers)
    family = family_of_layers(shapes)
    training = _network_metadata(layers, family, provenance) | provenance.training
    digest, legacy = _hashes(tensors, training)
    return (
        {"format": "pt", "sshs_model_hash": digest, "sshs_legacy_hash": legacy}
        | _model_spec(provenance, family.export, shapes, digest)
        | training
        | {f"delora.{key}": value for key, value in provenance.lineage.items()}
    )


def _shapes(layers: PlainLayers) -> Shapes:
    """The weights' that the factors add up to."""
    return {layer: (factors.up.shape[0], *factors.down.shape[1:]) for layer, factors in layers.items()}


def _model_spec(provenance: Provenance, export: ExportNames, shapes: Shapes, digest: str) -> dict[str, str]:
    noise = "v" if provenance.is_v_prediction else "epsilon"
    spec = {
        "sai_model_spec": MODEL_SPEC_VERSION,
        "architecture": f"{export.modelspec(shapes, provenance.is_v_prediction)}/lora",
        "implementation": "diffusers",
        "title": provenance.title,
        "date": provenance.date,
        "resolution": f"{provenance.size_px}x{provenance.size_px}" if provenance.size_px else "",
        "trigger_phrase": provenance.trigger,
        "tags": "dreambooth",
        "prediction_type": "" if export.flows else noise,
        "hash_sha256": f"0x{digest}",
    }
    return {f"modelspec.{key}": value for key, value in spec.items() if value}


def _network_metadata(layers: PlainLayers, family: Family, provenance: Provenance) -> dict[str, str]:
    ranks = {factors.down.shape[0] for factors in layers.values()}
    version = family.export.kohya_version(_shapes(layers), provenance.is_v_prediction)
    return {
        "ss_base_model_version": version,
        "ss_v2": str(version.startswith("sd_v2")),
        "ss_network_module": "networks.lora",
        "ss_network_dim": str(min(ranks)) if len(ranks) == 1 else "Dynamic",
        "ss_network_alpha": str(kohya_alpha(layers)),
        "ss_network_args": "{}",
        "ss_output_name": provenance.title,
        "ss_sd_model_name": provenance.base,
    }


def _hashes(tensors: dict[str, Tensor], training: dict[str, str]) -> tuple[str, str]:
    """Returns (SHA-256 of the tensors' bytes, eight digits of the old hash), as kohya's `sshs_*` are made."""
    content = b"".join(tensor_bytes(tensors[name]) for name in stored_order(tensors))
    whole = header_bytes(tensors, training) + content
    return hashlib.sha256(content).hexdigest(), hashlib.sha256(whole[_LEGACY_HASH_BYTES]).hexdigest()[:8]
