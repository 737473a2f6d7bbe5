"""How other tools spell a LoRA's keys: kohya, LyCORIS, diffusers old and new, PEFT, Stability's own layer names.

Knows names only: one spelling in, (layer as the file names it, part) out; and the UNet's layer for such a name.
"""

import re
from collections.abc import Iterable

from delora_sd.diffusion.unet.stability_names import original_name

KOHYA_PREFIX = "lora_unet_"
TEXT_ENCODER_PREFIXES = ("lora_te_", "lora_te1_", "lora_te2_", "text_encoder.", "text_encoder_2.", "te1.", "te2.")

_PARTS = {
    "lora_A.weight": "down", "lora_down.weight": "down", "lora.down.weight": "down", "lora_A": "down",
    "lora_B.weight": "up", "lora_up.weight": "up", "lora.up.weight": "up", "lora_B": "up", "lora_B.bias": "bias",
    "alpha": "alpha", "scale": "scale", "dora_scale": "dora_scale", "lora_magnitude_vector": "magnitude",
    "lora_magnitude_vector.weight": "magnitude",
}  # fmt: skip

_WRAPPERS = (
    "_orig_mod",
    "_fsdp_wrapped_module",
    "_checkpoint_wrapped_module",
    "_forward_module",
    "module",
    "processor",
)
"""What torch.compile, FSDP, activation checkpointing, DeepSpeed, data parallelism and old diffusers put between."""

_PREFIXES = (
    "base_model.model.",
    "base_model.",
    "unet.",
    "transformer.",
    "model.diffusion_model.",
    "diffusion_model.",
    "lora_unet.",
)
_FLAT_PREFIXES = (
    KOHYA_PREFIX,
    "lora_transformer_",
    "lycoris_",
    "unet_",
    "_orig_mod_",
    "module_",
    "model_diffusion_model_",
    "diffusion_model_",
)

_OLD_ATTENTION = {f"to_{part}_lora": f"to_{part}" for part in "qkv"} | {"to_out_lora": "to_out.0", "to_out": "to_out.0"}
"""diffusers before 0.22 (attn1.processor.to_q_lora.down.weight), with and without its `processor`."""


def split_key(key: str) -> tuple[str, str] | None:
    """Returns (layer as the file names it, "down" | "up" | "bias" | "alpha" | "scale" | "magnitude" | "dora_scale").

    None: not a key of a LoRA. The name an adapter had in memory (`lora_A.default.weight`) is no part of the answer.
    """
    plain = ".".join(part for part in key.split(".") if part not in _WRAPPERS)
    for ending, part in _PARTS.items():
        if plain.endswith(f".{ending}"):
            return _modern(plain.removesuffix(f".{ending}")), part
    if named := re.fullmatch(r"(.+)\.(lora_A|lora_B|lora_magnitude_vector)\.[^.]+(\.weight|\.bias)?", plain):
        part = _PARTS.get(named[2] + (named[3] or ""))
        return (_modern(named[1]), part) if part else None
    if old := re.fullmatch(r"(.+)_lora\.(down|up)\.weight", plain):
        return _modern(f"{old[1]}_lora"), old[2]
    return None


def adapter_name(key: str) -> str | None:
    """Returns the name that an adapter had in memory, where the key says it: `default` of `lora_A.default.weight`."""
    found = re.search(r"\.(?:lora_A|lora_B|lora_magnitude_vector)\.([^.]+)(?:\.weight|\.bias)?$", key)
    return found[1] if found and found[1] not in ("weight", "bias") else None


def _modern(layer: str) -> str:
    """Returns the layer's name of today for diffusers' old names of the attention's layers."""
    parent, _, last = layer.rpartition(".")
    return f"{parent}.{_OLD_ATTENTION[last]}" if last in _OLD_ATTENTION else layer


def flat_name(layer: str) -> str:
    """Returns a file's name of a layer without prefixes, however often it has them, dots as `_`."""
    while prefix := next((prefix for prefix in _PREFIXES if layer.startswith(prefix)), None):
        layer = layer.removeprefix(prefix)
    flat = layer.replace(".", "_")
    while prefix := next((prefix for prefix in _FLAT_PREFIXES if flat.startswith(prefix)), None):
        flat = flat.removeprefix(prefix)
    return flat.replace("__orig_mod_", "_").removeprefix("_")


def layers_by_flat_name(layers: Iterable[str]) -> dict[str, str]:
    """Returns {flat name: layer of the UNet}, in diffusers' names and in those of Stability's original code."""
    layers = list(layers)
    num_resnets = 1 + max((int(found[1]) for name in layers if (found := _DOWN_RESNET.match(name))), default=-1)
    with_attention = {found[1] for name in layers if (found := re.match(r"up_blocks\.(\d+)\.attentions\.", name))}
    original = {original_name(name, num_resnets, with_attention): name for name in layers}
    names = original | {name: name for name in layers}
    return {name.replace(".", "_"): layer for name, layer in names.items() if name}


_DOWN_RESNET = re.compile(r"down_blocks\.\d+\.resnets\.(\d+)\.")
