"""Small UNets, kicked adapters and the paper's formulas as loops: what the adapter tests share."""

import copy
import functools
import math

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.pack import AdapterPack, attach_adapters
from delora_sd.settings import AdapterConfig

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
CONVOLUTIONS = ("to_q", "conv1", "proj_in", "downsamplers.0.conv")
INITS = ("frozen_copy", "mirrored", "zero_up")
NORMALISED = ("delora", "normalized_lora")


@functools.cache
def _built_unet(cross_attention_dim: int):
    from diffusers import UNet2DConditionModel

    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        block_out_channels=(32, 64),
        layers_per_block=1,
        cross_attention_dim=cross_attention_dim,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    return unet.eval().requires_grad_(False)


def small_unet(cross_attention_dim: int = 24, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Returns a fresh copy of one random UNet of Stable Diffusion's shape, 0.8 M parameters."""
    return nn.Module.to(copy.deepcopy(_built_unet(cross_attention_dim)), dtype)


@torch.no_grad()
def unet_output(unet: nn.Module) -> Tensor:
    """Returns the UNet's answer to one fixed input, fp32."""
    generator = torch.Generator().manual_seed(1)
    dtype = next(unet.parameters()).dtype
    latents = torch.randn(2, 4, 8, 8, generator=generator).to(dtype)
    width = unet.config.cross_attention_dim
    text = torch.randn(2, 5, width, generator=generator).to(dtype)
    return unet(latents, torch.tensor([10, 500]), encoder_hidden_states=text).sample.float()


class OneLayer(nn.Module):
    """A model of a single layer named `layer`."""

    def __init__(self, kind: str, dtype: torch.dtype = torch.float32):
        super().__init__()
        torch.manual_seed(3)
        if kind == "linear":
            layer = nn.Linear(12, 9)
        else:
            size = 1 if kind == "conv1x1" else 3
            layer = nn.Conv2d(6, 9, size, stride=2 if size == 3 else 1, padding=size // 2)
        self.layer = layer.to(dtype)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)


LAYER_KINDS = ("linear", "conv1x1", "conv3x3")


def layer_input(kind: str, dtype: torch.dtype = torch.float32, samples: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    shape = (samples, 7, 12) if kind == "linear" else (samples, 6, 8, 8)
    return torch.randn(shape, generator=generator).to(dtype)


@torch.no_grad()
def kick(pack: AdapterPack, *, seed: int = 0, size: float = 0.3) -> AdapterPack:
    """Moves every trained tensor somewhere else, as training would."""
    generator = torch.Generator().manual_seed(seed)
    for adapter in pack.adapters:
        for _, parameter in adapter.parameters_by_name():
            parameter.add_(size * torch.randn(parameter.shape, generator=generator))
    return pack


def adapted(model: nn.Module, config: AdapterConfig, *, seed: int = 0, size: float = 0.3) -> AdapterPack:
    """Attaches one kicked adapter and makes its factors."""
    pack = kick(attach_adapters(model, [config], seeds=[seed]), seed=seed, size=size)
    with torch.no_grad():
        pack.make_factors()
    return pack


def config_of(method: str, **changes) -> AdapterConfig:
    """Returns small settings with a boundary that lets the update be seen."""
    defaults = {"rank": 4, "boundary": 0.5, "boundary_unit": "relative", "target_modules": ATTENTION}
    return AdapterConfig(method=method, **(defaults | changes))


# The paper, written as loops. W here is the paper's, (in, out), and y = W^T x.


def naive_weight(config: AdapterConfig, tensors: dict[str, Tensor], weight: Tensor, alpha: float) -> Tensor:
    """Returns W' as torch stores it, (out, in), float64, from the equations alone."""
    tensors = {name: value.double() for name, value in tensors.items()}
    return _NAIVE[config.method](config, tensors, weight.double().T.clone(), alpha).T


def _length(vector: Tensor) -> float:
    return math.sqrt(sum(x**2 for x in vector.tolist()))


def _delora_update(config: AdapterConfig, A: Tensor, B: Tensor, boundary: float, W: Tensor) -> Tensor:
    """Eq. 8, entry by entry: (lambda ||W|| / r) sum_k b_k a_k^T / (||b_k|| ||a_k||), in the paper's (in, out)."""
    num_in, num_out = W.shape
    kind = "none" if config.method == "normalized_lora" else config.weight_norm
    frobenius = _length(W.flatten())
    a_lengths = [max(_length(row), 1e-4) for row in A]
    b_lengths = [max(_length(column), 1e-4) for column in B.T]
    a, b = A.tolist(), B.tolist()
    update = torch.zeros(num_in, num_out, dtype=torch.float64)
    for i in range(num_in):
        norm = {"column": _length(W[i]), "frobenius": frobenius, "none": 1.0}[kind]
        for o in range(num_out):
            terms = (b[o][k] * a[k][i] / (b_lengths[k] * a_lengths[k]) for k in range(len(A)))
            update[i, o] = boundary * norm / len(A) * sum(terms)
    return update


def _naive_delora(config, tensors, W, alpha):
    live = _delora_update(config, tensors["A"], tensors["B"], float(tensors["boundary"]), W)
    start = tensors["start_up"] @ tensors["start_down"] if "start_up" in tensors else 0 * W.T
    return W + live - start.T  # Eq. 9


def _naive_lora(config, tensors, W, alpha):
    a, b = tensors["A"].tolist(), tensors["B"].tolist()
    update = torch.zeros_like(W)
    for i in range(W.shape[0]):
        for o in range(W.shape[1]):
            update[i, o] = alpha / len(a) * sum(b[o][k] * a[k][i] for k in range(len(a)))
    return W + update  # Eq. 1


def _naive_dora(config, tensors, W, alpha):
    changed = _naive_lora(config, tensors, W, alpha)
    for o in range(W.shape[1]):
        changed[:, o] *= tensors["magnitude"][o] / _length(changed[:, o])
    return changed


def _outer(u: Tensor, v: Tensor) -> Tensor:
    size = _length(u) * _length(v)
    return torch.tensor([[a * b / size for b in v.tolist()] for a in u.tolist()], dtype=torch.float64)


def _naive_ether(config, tensors, W, alpha):
    u = tensors["u"]
    return (torch.eye(len(u), dtype=torch.float64) - 2 * _outer(u, u)) @ W  # Eq. 2


def _relaxed_reflection(u: Tensor, v: Tensor) -> Tensor:
    return torch.eye(len(u), dtype=torch.float64) - _outer(u, u) + _outer(v, v)


def _naive_one_sided(config, tensors, W, alpha):
    return _relaxed_reflection(tensors["U"][0], tensors["V"][0]) @ W


def _naive_ether_plus(config, tensors, W, alpha):
    left = _relaxed_reflection(tensors["u"], tensors["v"])
    return left @ W @ _relaxed_reflection(tensors["u_out"], tensors["v_out"])


def _naive_reflections(config, tensors, W, alpha):
    """Eq. 10 for one pair, Eq. 14 for r / 2 pairs: W - (lambda / r) sum_k (u_k u_k^T - v_k v_k^T) W."""
    U, V, boundary = tensors["U"], tensors["V"], tensors["boundary"]
    total = sum(_outer(u, u) - _outer(v, v) for u, v in zip(U, V, strict=True))
    return W - boundary / (2 * len(U)) * total @ W


def _naive_relaxed(config, tensors, W, alpha):
    """Sec. 2.2, relaxed: W - (lambda / r) (B Xi A - D Phi C) W; rows of B and D here are the paper's columns."""
    A, B, C, D = (tensors[name] for name in "ABCD")
    total = sum(_outer(B[k], A[k]) - _outer(D[k], C[k]) for k in range(len(A)))
    return W - tensors["boundary"] / (2 * len(A)) * total @ W


_NAIVE = {
    "delora": _naive_delora,
    "normalized_lora": _naive_delora,
    "lora": _naive_lora,
    "dora": _naive_dora,
    "ether": _naive_ether,
    "ether_plus_one_sided": _naive_one_sided,
    "ether_plus": _naive_ether_plus,
    "ether_plus_bounded": _naive_reflections,
    "multiplicative_high_rank": _naive_reflections,
    "multiplicative_delora": _naive_relaxed,
}
