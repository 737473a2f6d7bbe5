"""Draws the pictures of docs/METHODS.md: what each method adds to a weight, and how far a pull without end moves it.

python scripts/prepare/draw_methods.py            # seconds on a CPU; writes docs/img/methods_*.png
"""

import argparse
from pathlib import Path
from typing import Any

import matplotlib
import torch

from delora_sd.adapters.lowrank.adapter import Adapter, create_adapter, layer_factors
from delora_sd.adapters.lowrank.factors import dense_update
from delora_sd.settings import AdapterConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

FROZEN, TRAINED, DERIVED, INK = "#d9d9de", "#3f6fb5", "#e0a03a", "#22242a"
WIDTH, STEPS, RATES = 64, 300, (1, 4, 16)
BOUNDARY_RATE = 1e-3
"""The boundary's own rate, the default of `optimizer.boundary_lr`: it is not multiplied."""

BOUNDED = {
    "lora": ("LoRA", 2e-3, {}),
    "dora": ("DoRA", 2e-3, {}),
    "ether_plus": ("ETHER+", 6e-3, {}),
    "delora": ("DeLoRA, λ 2.5", 1.2e-2, {"boundary": 2.5}),
}
"""{method: (label, learning rate at ×1, settings)}"""

W = ("W", 1.0, 1.0, FROZEN)
DOWN, UP = ("A", 1.0, 0.25, TRAINED), ("B", 0.25, 1.0, TRAINED)
FORMULAS: dict[str, list[Any]] = {
    "LoRA": [W, "+ α/r ·", UP, DOWN],
    "DeLoRA": [W, "+ λ/r ·", UP, ("Ξ", 0.25, 0.25, DERIVED), DOWN, ("‖w‖", 1.0, 0.12, FROZEN)],
    "DoRA": [("m", 0.12, 1.0, TRAINED), "· rows at length 1 of (", W, "+ α/r ·", UP, DOWN, ")"],
    "ETHER": [W, "(I − 2 ·", ("u", 0.12, 1.0, TRAINED), ("uᵀ", 1.0, 0.12, TRAINED), ")"],
    "OFT": [W, "·", ("R", 1.0, 1.0, "blocks")],
}
"""What stands where: (label, width, height, colour) or words. Blue is trained, grey frozen, yellow derived."""


def main(words: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path(__file__).parents[2] / "docs" / "img")
    folder = parser.parse_args(words).output
    draw_shapes(folder / "methods_shapes.png")
    draw_bounds(folder / "methods_bounds.png")


def draw_shapes(file: Path) -> None:
    """One line per method, its matrices to scale."""
    figure, axes = plt.subplots(len(FORMULAS), 1, figsize=(8, 1.25 * len(FORMULAS)), layout="constrained")
    for axis, (name, parts) in zip(axes, FORMULAS.items(), strict=True):
        axis.text(0, 0.5, name, fontsize=12, fontweight="bold", va="center", color=INK)
        place = 1.4
        for part in parts:
            place = _write(axis, part, place) if isinstance(part, str) else _draw(axis, part, place)
        axis.set(xlim=(0, 9.2), ylim=(-0.05, 1.05), aspect="equal")
        axis.axis("off")
    figure.savefig(file, dpi=110)
    plt.close(figure)


def _write(axis: Axes, words: str, place: float) -> float:
    axis.text(place, 0.5, words, fontsize=11, va="center", color=INK)
    return place + 0.1 * len(words) + 0.1


def _draw(axis: Axes, part: tuple[str, float, float, str], place: float) -> float:
    label, width, height, colour = part
    bottom = 0.5 - height / 2
    if colour == "blocks":
        axis.add_patch(Rectangle((place, bottom), width, height, facecolor="white", edgecolor=INK, linewidth=0.6))
        for block in range(4):
            corner = (place + block * width / 4, bottom + (3 - block) * height / 4)
            axis.add_patch(Rectangle(corner, width / 4, height / 4, facecolor=TRAINED))
    else:
        axis.add_patch(Rectangle((place, bottom), width, height, facecolor=colour, edgecolor=INK, linewidth=0.6))
    inside = width > 0.2 and height > 0.2 and colour != "blocks"
    ink = "white" if colour == TRAINED and inside else INK
    axis.text(place + width / 2, 0.5 if inside else bottom - 0.04, label, fontsize=9, ha="center",
              va="center" if inside else "top", color=ink)  # fmt: skip
    return place + width + 0.14


def draw_bounds(file: Path) -> None:
    """||dW|| / ||W|| of one layer under a constant pull, at the usual learning rate, 4 and 16 times it."""
    figure, axes = plt.subplots(1, len(RATES), figsize=(9, 3), sharey=True, layout="constrained")
    for axis, factor in zip(axes, RATES, strict=True):
        for method, (label, lr, settings) in BOUNDED.items():
            axis.plot(distances(method, factor * lr, settings), label=label, linewidth=1.8)
        axis.set(title=f"learning rate × {factor}", xlabel="step", yscale="log", ylim=(1e-2, 30))
        axis.grid(alpha=0.25)
    axes[0].set_ylabel("‖W′ − W‖ / ‖W‖")
    axes[-1].legend(fontsize=8)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def distances(method: str, lr: float, settings: dict[str, Any]) -> list[float]:
    """Returns the relative distance from the frozen weight after every step of AdamW."""
    generator = torch.Generator().manual_seed(0)
    weight, pull = (torch.randn(WIDTH, WIDTH, generator=generator) for _ in range(2))
    adapter = create_adapter(AdapterConfig(method=method, rank=8, **settings), {"layer": weight}, seed=0)
    groups = [
        {"params": [value], "lr": BOUNDARY_RATE if name == "boundary" else lr}
        for name, value in adapter.parameters_by_name()
    ]
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    found = []
    for _ in range(STEPS):
        update = _update(adapter, weight)
        (-(update * pull).sum()).backward()
        optimizer.step()
        optimizer.zero_grad()
        found.append((_update(adapter, weight).norm() / weight.norm()).item())
    return found


def _update(adapter: Adapter, weight: torch.Tensor) -> torch.Tensor:
    tensors = {name: value[0] for name, value in adapter.group_tensors(0).items()}
    return dense_update(layer_factors(adapter.config, adapter.specs()["layer"], tensors, weight), weight)


if __name__ == "__main__":
    main()
