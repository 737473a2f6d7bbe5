"""Plain LoRA files of other tools: kohya, diffusers (old and new keys) and PEFT names -> factors per layer.

Knows key names and scale rules; what is applied where is the business of updates.py.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from delora_sd.adapters.peft.layout import pattern_value
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.files.tensors import read_tensors

KOHYA_PREFIX = "lora_unet_"
TEXT_ENCODER_PREFIXES = ("lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "text_encoder_2.")
_PREFIXES = ("base_model.model.", "unet.")

_PARTS = {
    "lora_A.weight": "down", "lora_down.weight": "down", "lora.down.weight": "down",
    "lora_B.weight": "up", "lora_up.weight": "up", "lora.up.weight": "up",
    "alpha": "alpha", "dora_scale": "dora_scale", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip
_OLD_ATTENTION = {f"processor.to_{part}_lora": f"to_{part}" for part in "qkv"} | {"processor.to_out_lora": "to_out.0"}
"""diffusers before 0.22: attn1.processor.to_q_lora.down.weight."""

_OTHER_FAMILIES = {
    "hada_": "LoHa", "lokr_": "LoKr", "lora_mid": "LoCon with a middle factor", "oft_": "OFT", "glora": "GLoRA",
    "ia3": "IA3", "diff": "full difference", "delora_": "DeLoRA",
}  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class PlainLayer:
    """dW = up @ down, alpha / rank folded into `up`; with a magnitude, W' = magnitude (W + dW) / ||W + dW||."""

    down: Tensor
    """(rank, in) or (rank, in, height, width)"""
    up: Tensor
    """(out, rank)"""
    magnitude: Tensor | None
    """(out,)"""

    @property
    def weight_shape(self) -> tuple[int, ...]:
        return (self.up.shape[0], *self.down.shape[1:])


def read_plain_lora(path: Path, layers: Iterable[str]) -> tuple[dict[str, PlainLayer], list[str]]:
    """Returns ({layer of the UNet: its factors in fp32}, names of the text encoder's tensors, which we do not use).

    `layers` are the dotted names of the UNet's layers: kohya's names cannot be undone without them.

    Raises:
        UserError: not a LoRA, a name that no layer of this UNet has, halves of a pair, a DoRA scale along the inputs.
    """
    tensors, metadata = read_tensors(path)
    by_kohya_name = {layer.replace(".", "_"): layer for layer in layers}
    found: dict[str, dict[str, Tensor]] = {}
    text_encoder = []
    for key, value in tensors.items():
        if key.startswith(TEXT_ENCODER_PREFIXES):
            text_encoder.append(key)
            continue
        layer, part = _split_key(key, path)
        name = _layer_name(layer, by_kohya_name, path)
        found.setdefault(name, {})[part] = value
    if not found:
        raise UserError(f"{path} holds no LoRA of a UNet")
    alphas = _declared_alphas(metadata)
    return {name: _plain_layer(name, parts, alphas, path) for name, parts in found.items()}, text_encoder


def _split_key(key: str, path: Path) -> tuple[str, str]:
    """Returns (layer as the file names it, "down" | "up" | "alpha" | "magnitude" | "dora_scale")."""
    for ending, part in _PARTS.items():
        if key.endswith(f".{ending}"):
            return key.removesuffix(f".{ending}"), part
    for old, new in _OLD_ATTENTION.items():
        for direction in ("down", "up"):
            if key.endswith(f"{old}.{direction}.weight"):
                return key.removesuffix(f"{old}.{direction}.weight") + new, direction
    endings = key.split(".")[-2:]
    family = next((f for mark, f in _OTHER_FAMILIES.items() if any(e.startswith(mark) for e in endings)), None)
    kind = f"a {family} file" if family else "no LoRA"
    raise UserError(
        f"{path} is {kind}: it holds '{key}'; expected lora_down/lora_up, lora.down/lora.up or lora_A/lora_B"
    )


def _layer_name(layer: str, by_kohya_name: dict[str, str], path: Path) -> str:
    if layer.startswith(KOHYA_PREFIX):
        plain = layer.removeprefix(KOHYA_PREFIX)
    else:
        for prefix in _PREFIXES:
            layer = layer.removeprefix(prefix)
        plain = layer.replace(".processor.", ".").replace(".", "_")
    if plain not in by_kohya_name:
        raise UserError(f"{path} was made for another base: this UNet has no layer '{layer}'")
    return by_kohya_name[plain]


def _declared_alphas(metadata: dict[str, str]) -> dict:
    """Returns the LoraConfig that diffusers keeps in the header, {} without one."""
    try:
        declared = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except (ValueError, RecursionError):
        return {}
    if not isinstance(declared, dict):
        return {}
    return {key.removeprefix("unet."): value for key, value in declared.items() if key.startswith("unet.")}


def _plain_layer(name: str, parts: dict[str, Tensor], declared: dict, path: Path) -> PlainLayer:
    if not {"down", "up"} <= set(parts):
        missing = " and ".join(sorted({"down", "up"} - set(parts)))
        raise UserError(f"{path}: layer {name} has {', '.join(sorted(parts))} but lacks its {missing} factor")
    is_matrix = parts["down"].ndim >= 2 and parts["up"].ndim >= 2 and parts["down"].numel() and parts["up"].numel()
    down, up = parts["down"].float(), parts["up"].float()
    up = up.flatten(1) if is_matrix else up
    if not is_matrix or down.shape[0] != up.shape[1]:
        shapes = f"down {tuple(down.shape)}, up {tuple(parts['up'].shape)}"
        raise UserError(f"{path}: layer {name}: the factors do not fit each other ({shapes})")
    rank = down.shape[0]
    alpha = _alpha(name, parts, declared, path)
    alpha = rank if alpha is None else alpha
    magnitude = _magnitude(name, parts, up.shape[0], path)
    return PlainLayer(down=down, up=up * (alpha / rank), magnitude=magnitude)


def _alpha(name: str, parts: dict[str, Tensor], declared: dict, path: Path) -> float | None:
    """Returns the layer's alpha: its own tensor, else the LoraConfig in the header, else None."""
    if "alpha" in parts:
        if parts["alpha"].numel() != 1 or parts["alpha"].is_complex():
            raise UserError(f"{path}: layer {name}: alpha is {tuple(parts['alpha'].shape)}, expected one number")
        return parts["alpha"].item()
    source, fields = f"{path}: lora_adapter_metadata", {"alpha_pattern": dict | None, "lora_alpha": float}
    check_record(declared, {}, fields, source=source, advice="get the file again")
    pattern = declared.get("alpha_pattern") or {}
    check_record(pattern, dict.fromkeys(pattern, float), source=source, advice="get the file again")
    return pattern_value(pattern, name, declared.get("lora_alpha"), source=source)


def _magnitude(name: str, parts: dict[str, Tensor], out_features: int, path: Path) -> Tensor | None:
    """Returns the DoRA scale as (out,). LyCORIS also writes one along the inputs, which DoRA (Liu et al.) has not."""
    value = parts.get("dora_scale", parts.get("magnitude"))
    if value is None:
        return None
    # kohya's has the outputs first, (out, 1, ...); PEFT's is (out,) or, of a convolution, (1, out, 1, 1).
    is_along_inputs = "dora_scale" in parts and value.ndim > 1 and value.shape[0] != out_features
    if value.numel() != out_features or is_along_inputs:
        raise UserError(
            f"{path}: layer {name}: a DoRA scale of shape {tuple(value.shape)} cannot be applied; expected one value "
            f"per output ({out_features})"
        )
    return value.float().flatten()
