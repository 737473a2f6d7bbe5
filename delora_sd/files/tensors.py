"""Tensors on disk: safetensors only, checked when read, the same bytes for the same content when written."""

import json
import math
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from delora_sd.errors import UserError
from delora_sd.files.run_folder import write_file

PICKLES = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
"""Endings of files that run code when opened."""

_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int64: "I64", torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


def read_tensors(path: Path, *, prefix: str = "") -> tuple[dict[str, Tensor], dict[str, str]]:
    """Returns ({name: tensor}, metadata) of a .safetensors file, in memory of their own.

    Args:
        prefix: Only tensors whose names begin so are read.

    Raises:
        UserError: a pickle, a broken or lying header, a value that is not finite.
    """
    refuse_pickle(path)
    try:
        with safe_open(path, framework="pt") as file:
            names = [name for name in file.keys() if name.startswith(prefix)]  # noqa: SIM118 (not a dict)
            tensors = {name: file.get_tensor(name).clone() for name in names}
            metadata = file.metadata() or {}
    except FileNotFoundError:
        raise UserError(f"{path} does not exist") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise UserError(f"{path} is not a whole safetensors file ({error}); get or make it again") from None
    for name, value in tensors.items():
        if value.is_floating_point() and not torch.isfinite(value.float()).all():  # isfinite knows no 8-bit floats
            raise UserError(f"{path}: '{name}' holds values that are not finite (NaN or infinity); it cannot be used")
    return tensors, metadata


def refuse_pickle(path: Path) -> None:
    """Raises UserError for files that run code when opened, by their ending or their first bytes."""
    if path.suffix.lower() in PICKLES or (path.is_file() and _starts_like_a_pickle(path)):
        raise UserError(f"{path} is a pickle, which can run code when opened; only .safetensors files are read")


def _starts_like_a_pickle(path: Path) -> bool:
    with path.open("rb") as file:
        start = file.read(9)
    if start[4:] == b"\0\0\0\0{":  # safetensors: a header of 640, 1152 or 1408 bytes begins with a pickle's mark
        return False
    return start.startswith((b"PK\x03\x04", b"\x80\x02", b"\x80\x04", b"\x80\x05"))


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    """Writes a .safetensors file whole or not at all; same content, same bytes."""

    def write(temporary: Path) -> None:
        with temporary.open("wb") as file:
            file.write(header_bytes(tensors, metadata))
            for name in stored_order(tensors):
                file.write(tensor_bytes(tensors[name]))

    write_file(path, write)


def stored_order(tensors: dict[str, Tensor]) -> list[str]:
    """Returns the names as they lie in the file: widest types first keeps every tensor aligned, then by name."""
    return sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))


def header_bytes(tensors: dict[str, Tensor], metadata: dict[str, str]) -> bytes:
    """Returns length and header of the file. The library's own writer orders the metadata by a random hash."""
    header: dict = {"__metadata__": dict(sorted(metadata.items()))} if metadata else {}
    position = 0
    for name in stored_order(tensors):
        value = tensors[name]
        size = math.prod(value.shape) * value.element_size()
        header[name] = {
            "dtype": _DTYPES[value.dtype],
            "shape": list(value.shape),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode("utf-8")
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def tensor_bytes(value: Tensor) -> bytes:
    return value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
