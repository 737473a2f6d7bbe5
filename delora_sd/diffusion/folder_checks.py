"""What a model folder says of itself, checked before a library opens it: libraries believe what the files say.

A folder from a stranger may name weights elsewhere, hide a second model, or ask for code from the hub.
"""

import re
from pathlib import Path
from typing import Any

from delora_sd.config.text import read_json_text
from delora_sd.errors import UserError

MAX_SIDE_PX = 4096
"""Side of an image; Stable Diffusion 1.x and 2.x were trained at 512 and 768."""

_RUNS_CODE = ("auto_map", "quantization_config", "attn_implementation", "_attn_implementation", "custom_pipelines")
"""Settings with which a config makes a library fetch code, or unpack weights its own way."""

_FOREIGN = ("adapter_config.json",)
"""Files that lead a library elsewhere: transformers would load the base model that an adapter names."""

_SIZES = {
    "unet": {"sample_size": int, "in_channels": int, "block_out_channels": list},
    "vae": {"block_out_channels": list},
}
"""What we read from the configs ourselves, and its type."""


def check_part(folder: Path, part: str, stem: str) -> None:
    """Raises UserError for a part that leads out of its folder; `stem` names its weight files."""
    for name in _FOREIGN:
        if (folder / part / name).exists():
            raise UserError(f"{folder / part / name}: does not belong into a model's {part}; move it elsewhere")
    for index in sorted((folder / part).glob(f"{stem}*.index*.json")):
        _check_index(index, stem)


def check_config(file: Path, part: str, config: dict[str, Any]) -> None:
    """Raises UserError for a config that asks for code, or lacks the sizes we read."""
    for key in _RUNS_CODE:
        if config.get(key) is not None:
            raise UserError(f"{file}: '{key}' makes a library fetch or run something else; remove it")
    for key, kind in _SIZES.get(part, {}).items():
        value = config.get(key)
        numbers = value if isinstance(value, list) else [value]
        is_whole = all(isinstance(number, int) and not isinstance(number, bool) and number > 0 for number in numbers)
        if not isinstance(value, kind) or not numbers or not is_whole:
            raise UserError(f"{file}: {key} is {_show(value)}; expected {_EXPECTED[kind]}, so get the model again")


def check_side(source: str, side_px: int, *, factor: int, smallest: int) -> None:
    """Raises UserError for an image that the VAE cannot halve often enough, or that no memory holds."""
    if side_px % factor or not smallest <= side_px <= MAX_SIDE_PX:
        raise UserError(f"{source}: expected a multiple of {factor}, at least {smallest} and at most {MAX_SIDE_PX}")


_EXPECTED = {int: "a positive whole number", list: "a list of positive whole numbers"}


def _check_index(index: Path, stem: str) -> None:
    """An index lists the files with the weights: only the safetensors beside it are read, and they are hashed."""
    try:
        listed = read_json_text(index)["weight_map"].values()
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        raise UserError(f"{index}: no list of weight files in it; get the model again") from None
    for name in dict.fromkeys(map(str, listed)):
        if not re.fullmatch(rf"{stem}(\.fp16)?-0[\w-]*\.safetensors", name):
            raise UserError(
                f"{index}: names {_show(name)}; expected .safetensors files beside it, such as "
                f"{stem}-00001-of-00002.safetensors"
            )


def _show(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
