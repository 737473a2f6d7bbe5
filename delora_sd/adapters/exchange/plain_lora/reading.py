"""Plain LoRA files of other tools: their tensors -> factors per layer, scaled as the tool that made them scales.

Knows parts of a layer and scale rules; names are key_names.py's business, what is applied where that of updates.py.
"""

import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from delora_sd.adapters.exchange.plain_lora.key_names import (
    TEXT_ENCODER_PREFIXES,
    adapter_name,
    flat_name,
    layers_by_flat_name,
    split_key,
)
from delora_sd.adapters.peft.layout import PREFIX as PEFT_PREFIX
from delora_sd.adapters.peft.lora_config import beyond_plain_lora, declared_alpha
from delora_sd.diffusion.families.family import ExportNames
from delora_sd.diffusion.families.table import FAMILIES, family_of_layers
from delora_sd.errors import UserError
from delora_sd.files.tensors import read_tensors

_OTHER_FAMILIES = {
    "hada_": "LoHa", "lokr_": "LoKr", "lora_mid": "LoCon with a middle factor", "oft_": "OFT", "glora": "GLoRA",
    "ia3": "IA3", "diff": "full difference", "delora_": "DeLoRA", "ln_tuning": "norm tuning", "tinylora": "TinyLoRA",
    "unilora": "UniLoRA", "w_norm": "norm tuning", "b_norm": "norm tuning", "boft_": "BOFT", "vera_": "VeRA",
    "vblora_": "VB-LoRA", "road_": "RoAd", "hra_": "HRA", "lora_embedding": "LoRA of an embedding",
}  # fmt: skip
_UNDER_NAMES_OF_THEIR_OWN = ("DeLoRA", "IA3", "BOFT", "VeRA", "VB-LoRA", "RoAd", "HRA", "UniLoRA", "TinyLoRA")
"""Only PEFT writes them, with a configuration beside the tensors."""

_OTHER_PARTS = ("bundle_emb.", "emb_params", "string_to_param", "lora_prior_", "lora_controlnet")
"""Text embeddings and networks that are no part of a UNet."""


@dataclass(frozen=True, kw_only=True)
class PlainLayer:
    """dW = up @ down, alpha / rank folded into `up`; with a magnitude, W' = magnitude (W + dW) / ||W + dW||."""

    down: Tensor
    """(rank, in) or (rank, in, height, width)"""
    up: Tensor
    """(out, rank)"""
    magnitude: Tensor | None = None
    """(out,); along the inputs (in,)"""
    is_along_inputs: bool = False
    """The norm of W + dW is taken per input channel, as LyCORIS and early kohya do."""
    bias: Tensor | None = None
    """(out,), added to the layer's bias."""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])


def read_plain_lora(path: Path, layers: Iterable[str]) -> tuple[dict[str, PlainLayer], Counter[str]]:
    """Returns ({layer of the UNet: its factors in fp32}, how many tensors of what are not used).

    `layers` are the dotted names of the UNet's layers: kohya's names cannot be undone without them.

    Raises:
        UserError: not a LoRA, a name that no layer of this UNet has, halves of a pair, a scale that fits no axis.
    """
    tensors, metadata = read_tensors(path)
    layers = list(layers)
    export = family_of_layers(dict.fromkeys(layers, ())).export
    names, fused = layers_by_flat_name(layers) | _kohya_names(layers, export), _fused_names(layers, export)
    found: dict[str, dict[str, Tensor]] = {}
    unused: Counter[str] = Counter()
    strange = []
    for key, value in tensors.items():
        if key.startswith(TEXT_ENCODER_PREFIXES):
            unused["the text encoder"] += 1
        elif split := split_key(key):
            parts = found.setdefault(_layer(split[0], names, fused, path), {})
            if split[1] in parts:
                raise UserError(f"{path}: {_twice(list(tensors))}")
            parts[split[1]] = value
        else:
            strange.append(key)
    for key in strange:
        if not found or not key.startswith(_OTHER_PARTS):
            raise UserError(f"{path} {_what_it_is(key)}")
        unused[f"'{key.split('.')[0]}'"] += 1
    if not found:
        raise UserError(f"{path} holds no LoRA of a UNet")
    found = _taken_apart(found, fused, path)
    declared = _declared(metadata, path)
    if declared is None and any(key.startswith(PEFT_PREFIX) for key in tensors) and not _has_alphas(found):
        warnings.warn(
            f"{path} has PEFT's names and no alpha: adapter_config.json, which PEFT writes beside it, is missing; "
            "applied with alpha = rank",
            stacklevel=3,
        )
    return {name: _plain_layer(name, parts, declared, path) for name, parts in found.items()}, unused


def warn_of_unused(path: Path, unused: Counter[str]) -> None:
    """Warns of the tensors that `read_plain_lora` left out."""
    if unused:
        others = " and ".join(f"{what} ({count} tensor{'s' * (count > 1)})" for what, count in unused.items())
        warnings.warn(f"{path} also changes {others}; only the UNet's part is used", stacklevel=3)


def _kohya_names(layers: list[str], export: ExportNames) -> dict[str, str]:
    """{flat name: layer} of the layers that are one layer in a kohya file too."""
    whole = [layer for layer in layers if export.kohya_part(layer)[1] == 1]
    return {flat_name(export.kohya_key(layer)): layer for layer in whole}


def _fused_names(layers: list[str], export: ExportNames) -> dict[str, list[str]]:
    """{flat name: the layers it holds one below another} of what is one matrix in a kohya file."""
    fused: dict[str, list[str]] = {}
    for layer in sorted(layers, key=lambda layer: export.kohya_part(layer)[0]):
        if export.kohya_part(layer)[1] > 1:
            fused.setdefault(flat_name(export.kohya_key(layer)), []).append(layer)
    return fused


def _taken_apart(
    found: dict[str, dict[str, Tensor]], fused: dict[str, list[str]], path: Path
) -> dict[str, dict[str, Tensor]]:
    """Returns the layers' own tensors of what holds several; terms that a layer takes no part in are left out of it."""
    apart = {name: parts for name, parts in found.items() if name not in fused}
    for name in found.keys() & fused.keys():
        parts, layers = found[name], fused[name]
        if not _are_factors(parts) or parts["up"].shape[0] % len(layers):
            raise UserError(f"{path}: '{name}' should hold {', '.join(layers)}, but its factors do not fit them")
        scale = _scale(name, parts, None, path)
        magnitudes = parts["dora_scale"].chunk(len(layers)) if "dora_scale" in parts else [None] * len(layers)
        for layer, up, magnitude in zip(layers, parts["up"].chunk(len(layers)), magnitudes, strict=True):
            own = up.ne(0).any(0)
            if layer in apart:
                raise UserError(f"{path}: {_twice([])}")
            if own.any():
                apart[layer] = {"down": parts["down"][own], "up": up[:, own], "scale": torch.tensor(scale)}
                apart[layer] |= {} if magnitude is None else {"dora_scale": magnitude}
    return apart


def _are_factors(parts: dict[str, Tensor]) -> bool:
    down, up = parts.get("down"), parts.get("up")
    return down is not None and up is not None and down.ndim == up.ndim == 2 and down.shape[0] == up.shape[1]


def _layer(written: str, names: dict[str, str], fused: dict[str, list[str]], path: Path) -> str:
    """Returns the layer, or the name of several in one; what is called `to_out.0` may be a layer `to_out`."""
    flat = flat_name(written)
    if flat in fused:
        return flat
    layer = names.get(flat) or (names.get(flat.removesuffix("_0")) if flat.endswith("_to_out_0") else None)
    if layer is None:
        raise UserError(f"{path} was made for another base: this base has no layer '{written[:120]}'")
    return layer


def _twice(keys: list[str]) -> str:
    adapters = sorted({name for key in keys if (name := adapter_name(key))})
    if len(adapters) > 1:
        return f"holds several adapters ({', '.join(adapters)}); save each of them into a file of its own"
    return "names the same layer twice in two spellings"


def _what_it_is(key: str) -> str:
    endings = key.split(".")[-3:]
    family = next((f for mark, f in _OTHER_FAMILIES.items() if any(end.startswith(mark) for end in endings)), None)
    if family in _UNDER_NAMES_OF_THEIR_OWN:
        return f"is a {family} file: it holds '{key}'; give the folder that also holds its adapter_config.json"
    kind = f"a {family} file" if family else "no LoRA"
    return f"is {kind}: it holds '{key}'; expected lora_down/lora_up, lora.down/lora.up or lora_A/lora_B"


def _declared(metadata: dict[str, str], path: Path) -> dict[str, Any] | None:
    """Returns the LoraConfig in the header, diffusers' or ours; None without one.

    Raises:
        UserError: it says that the tensors are not all there is to it.
    """
    try:
        declared = json.loads(metadata.get("lora_adapter_metadata", "null"))
        layers = json.loads(metadata.get("delora.layers", "null"))
    except (ValueError, RecursionError):
        return None
    if isinstance(layers, dict) and all(isinstance(spec, dict) and "alpha" in spec for spec in layers.values()):
        return {"alpha_pattern": {f"^{re.escape(layer)}$": spec["alpha"] for layer, spec in layers.items()}}
    if not isinstance(declared, dict):
        return None
    parts = tuple(f"{family.denoiser}." for family in FAMILIES.values())
    ours = {key.partition(".")[2]: value for key, value in declared.items() if key.startswith(parts)}
    config = ours or {key: value for key, value in declared.items() if "." not in key}
    if more := beyond_plain_lora({key: value for key, value in config.items() if key != "lora_bias"}):
        raise UserError(
            f"{path}: the header says {more}, and then the tensors alone are not the update; save it with PEFT "
            "(save_pretrained) and give the folder, or convert it to a plain LoRA where it was trained"
        )
    return config or None


def _has_alphas(found: dict[str, dict[str, Tensor]]) -> bool:
    return all("alpha" in parts or "scale" in parts for parts in found.values())


def _plain_layer(name: str, parts: dict[str, Tensor], declared: dict[str, Any] | None, path: Path) -> PlainLayer:
    if not {"down", "up"} <= set(parts):
        missing = " and ".join(sorted({"down", "up"} - set(parts)))
        raise UserError(f"{path}: layer {name} has {', '.join(sorted(parts))} but lacks its {missing} factor")
    is_matrix = parts["down"].ndim >= 2 and parts["up"].ndim >= 2 and parts["down"].numel() and parts["up"].numel()
    down, up = parts["down"].float(), parts["up"].float()
    up = up.flatten(1) if is_matrix else up
    if not is_matrix or down.shape[0] != up.shape[1]:
        shapes = f"down {tuple(down.shape)}, up {tuple(parts['up'].shape)}"
        raise UserError(f"{path}: layer {name}: the factors do not fit each other ({shapes})")
    scale = _scale(name, parts, declared, path)
    magnitude, is_along_inputs = _magnitude(name, parts, (up.shape[0], down.shape[1]), path)
    if declared and declared.get("use_dora") and magnitude is None:
        raise UserError(f"{path}: the header says use_dora, but layer {name} has no lora_magnitude_vector")
    bias = parts["bias"].float().flatten() * scale if "bias" in parts else None
    if bias is not None and len(bias) != up.shape[0]:
        raise UserError(f"{path}: layer {name}: {len(bias)} biases for {up.shape[0]} outputs")
    return PlainLayer(down=down, up=up * scale, magnitude=magnitude, is_along_inputs=is_along_inputs, bias=bias)


def _scale(name: str, parts: dict[str, Tensor], declared: dict[str, Any] | None, path: Path) -> float:
    """Returns what multiplies B A: `scale` (AUTOMATIC1111), alpha / rank of the layer's tensor, of the header; else 1.

    1 is what diffusers, ComfyUI and AUTOMATIC1111 take where a file says nothing.
    """
    rank = parts["down"].shape[0]
    for key, unit in (("scale", 1), ("alpha", rank)):
        if key in parts:
            if parts[key].numel() != 1 or parts[key].is_complex():
                raise UserError(f"{path}: layer {name}: {key} is {tuple(parts[key].shape)}, expected one number")
            return parts[key].item() / unit
    if declared is None:
        return 1.0
    return declared_alpha(declared, name, rank, source=f"{path}: lora_adapter_metadata") / rank


def _magnitude(name: str, parts: dict[str, Tensor], shape: tuple[int, int], path: Path) -> tuple[Tensor | None, bool]:
    """Returns (DoRA's scale flattened, whether it lies along the inputs): which axis it scales is in its shape.

    kohya's has the axes of the weight, (out, 1, ...) or (1, in, ...); PEFT's is (out,) or, of a convolution,
    (1, out, 1, 1).
    """
    value = parts.get("dora_scale", parts.get("magnitude"))
    if value is None:
        return None, False
    num_out, num_in = shape
    has_axes = "dora_scale" in parts and value.ndim > 1
    if value.numel() == num_out and (not has_axes or value.shape[0] == num_out):
        return value.float().flatten(), False
    if has_axes and value.numel() == num_in and value.shape[1] == num_in:
        return value.float().flatten(), True
    raise UserError(
        f"{path}: layer {name}: a DoRA scale of shape {tuple(value.shape)} cannot be applied; expected one value per "
        f"output ({num_out}) or per input ({num_in})"
    )
