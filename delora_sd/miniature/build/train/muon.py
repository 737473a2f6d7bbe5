"""Muon (Jordan et al. 2024): momentum made orthogonal. On a CPU it needs several times fewer pictures than AdamW here.

Weights of two or more dimensions inside the network take Muon's step; embeddings, first and last layers, biases and
norms take Adam's.
"""

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from delora_sd.miniature.build.train.precision import compute_dtype

MOMENTUM = 0.95
BETAS = (0.9, 0.99)
EPSILON = 1e-8
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # quintic coefficients of the paper
NEWTON_SCHULZ_STEPS = 5
ADAM_ONLY = ("embed", "conv_in.", "conv_out.", "pos_", "class_emb", "transformer.proj_out")


class Muon(torch.optim.Optimizer):
    """Two groups with a `peak` learning rate each; `is_matrix` says which step a group takes."""

    def __init__(self, modules: Iterable[nn.Module], *, matrix_lr: float, other_lr: float):
        named = [item for module in modules for item in module.named_parameters() if item[1].requires_grad]
        matrices = [p for name, p in named if p.ndim >= 2 and not any(word in name for word in ADAM_ONLY)]
        chosen = {id(p) for p in matrices}
        others = [p for _, p in named if id(p) not in chosen]
        groups = [
            {"params": matrices, "lr": matrix_lr, "peak": matrix_lr, "is_matrix": True},
            {"params": others, "lr": other_lr, "peak": other_lr, "is_matrix": False},
        ]
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:
        """One update from the gradients."""
        for group in self.param_groups:
            params = [p for p in group["params"] if p.grad is not None]
            (self._matrix_step if group["is_matrix"] else self._adam_step)(params, group["lr"])

    def _matrix_step(self, params: list[Tensor], lr: float) -> None:
        by_shape: dict[tuple[int, int], list[tuple[Tensor, Tensor]]] = {}
        for p in params:
            momentum = self.state[p].setdefault("momentum", torch.zeros_like(p))
            momentum.lerp_(p.grad, 1 - MOMENTUM)
            direction = as_matrix(p.grad.lerp_(momentum, MOMENTUM)).to(compute_dtype(p.device))
            by_shape.setdefault(tuple(direction.shape), []).append((as_matrix(p), direction))
        for (rows, columns), items in by_shape.items():
            updates = orthogonalise(torch.stack([direction for _, direction in items]))
            scale = lr * max(1.0, rows / columns) ** 0.5
            for (weights, _), update in zip(items, updates, strict=True):
                weights.add_(update, alpha=-scale)

    def _adam_step(self, params: list[Tensor], lr: float) -> None:
        for p in params:
            state = self.state[p]
            if not state:
                state |= {"step": torch.zeros(()), "mean": torch.zeros_like(p), "square": torch.zeros_like(p)}
            state["step"] += 1
            state["mean"].lerp_(p.grad, 1 - BETAS[0])
            state["square"].mul_(BETAS[1]).addcmul_(p.grad, p.grad, value=1 - BETAS[1])
            count = int(state["step"])
            scale = (state["square"] / (1 - BETAS[1] ** count)).sqrt_().add_(EPSILON)
            p.addcdiv_(state["mean"], scale, value=-lr / (1 - BETAS[0] ** count))


def as_matrix(tensor: Tensor) -> Tensor:
    """A (rows, columns) view without a copy, whatever the memory format of a convolution's kernel."""
    if tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last):
        return tensor.permute(0, 2, 3, 1).flatten(1)
    return tensor.flatten(1)


def orthogonalise(matrices: Tensor) -> Tensor:
    """The nearest (semi-)orthogonal matrices, roughly, by Newton-Schulz iteration (count, rows, columns)."""
    a, b, c = NEWTON_SCHULZ
    x = matrices
    is_tall = x.shape[1] > x.shape[2]
    x = (x.mT if is_tall else x).contiguous()
    x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(NEWTON_SCHULZ_STEPS):
        gram = torch.bmm(x, x.mT)
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x
