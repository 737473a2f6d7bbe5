"""A frozen base in 8 or 4 bits: how its Linear weights are stored, and how the dense weight comes back.

int8: torchao, one scale per output row. int4: bitsandbytes' NF4, one scale per 64 weights. Both only store: the
product is computed with the de-quantised weight, so gradients pass through.
"""

import torch
from torch import Tensor, nn

from delora_sd.errors import UserError

_INSTALL = "pip install 'delora_sd[quantize]'"


def quantize_linears(unet: nn.Module, kind: str) -> None:
    """Replaces the weight of every Linear by its rounded form; `kind` is none, int8 or int4.

    Raises:
        UserError: the package that stores this kind is not installed.
    """
    if kind == "int8":
        _store_int8(unet)
    elif kind == "int4":
        _store_int4(unet)


def is_quantized(layer: nn.Module) -> bool:
    """True when the weight is not a plain tensor but stored in 8 or 4 bits."""
    return _nf4_state(layer) is not None or type(layer.weight.data) is not Tensor


def dense_weight(layer: nn.Module) -> Tensor:
    """Returns the frozen weight in its own shape, detached; a quantised one de-quantised."""
    weight = layer.weight.detach()
    if (state := _nf4_state(layer)) is not None:
        from bitsandbytes.functional import dequantize_4bit

        return dequantize_4bit(weight.data, state)
    return weight.dequantize() if is_quantized(layer) else weight


def weight_shape(layer: nn.Module) -> tuple[int, ...]:
    """Returns the shape of the dense weight: (out, in), or (out, in, height, width) of a convolution."""
    return (layer.out_features, layer.in_features) if isinstance(layer, nn.Linear) else tuple(layer.weight.shape)


def weight_dtype(layer: nn.Module) -> torch.dtype:
    """Returns the precision the layer computes in."""
    state = _nf4_state(layer)
    return layer.weight.dtype if state is None else state.dtype


def _nf4_state(layer: nn.Module):
    """bitsandbytes keeps scales and dtype beside the packed bytes."""
    return getattr(layer.weight, "quant_state", None)


def _store_int8(unet: nn.Module) -> None:
    try:
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError:
        raise UserError(f"model.quantization: int8 needs torchao; {_INSTALL}") from None
    quantize_(unet, Int8WeightOnlyConfig())


def _store_int4(unet: nn.Module) -> None:
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError:
        raise UserError(f"model.quantization: int4 needs bitsandbytes; {_INSTALL}") from None
    linears = [(name, layer) for name, layer in unet.named_modules() if type(layer) is nn.Linear]
    for name, layer in linears:
        packed = Linear4bit(
            layer.in_features, layer.out_features, compute_dtype=layer.weight.dtype, quant_type="nf4", device="meta"
        )
        packed.weight = Params4bit(layer.weight.data, requires_grad=False, quant_type="nf4", module=packed)
        packed.bias = layer.bias
        parent, _, child = name.rpartition(".")
        setattr(unet.get_submodule(parent), child, packed.to(layer.weight.device))
