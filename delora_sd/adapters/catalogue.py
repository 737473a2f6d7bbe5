"""The table of methods on a base: what each computes, how much it trains, what can be done with it."""

from dataclasses import dataclass, replace

import torch
from torch import nn

from delora_sd.adapters.attach import check_known, default_learning_rate, is_packable, with_default_layers
from delora_sd.adapters.lowrank.adapter import UNFUSED, FusedRows, create_adapter
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.adapters.lowrank.pack import find_targets
from delora_sd.adapters.peft.methods import attach_peft, check_num_blocks
from delora_sd.settings import AdapterConfig, MethodsConfig

TABLE_3_LORA_RANK = 4
"""The paper compares LoRA at two ranks."""

_DELEGATED_FORMULAS = {
    "full": "every weight is free",
    "oft": "W R, R block-diagonal, each block (I + Q)(I − Q)⁻¹, Q = −Qᵀ",
    "peft": "any PEFT configuration: adapter.peft_config=FILE.json",
}


@dataclass(frozen=True, kw_only=True)
class MethodRow:
    """One line of the table; None where a question has no answer."""

    method: str
    size: str
    """What decides the count: "r 16", "n 4" or nothing."""
    formula: str
    num_parameters: int | None
    starts_at_identity: bool | None
    is_packable: bool
    exact_rank: int | None
    lr: float


def print_methods(config: MethodsConfig) -> None:
    """Prints the table for one base and one set of adapter settings; only shapes are loaded, never weights.

    Raises:
        UserError: settings no layer could satisfy, or a base that is not to be had.
    """
    from rich.console import Console
    from rich.table import Table

    rows = find_methods(config)
    table = Table(title=f"Methods on {config.model.base}")
    for heading in (
        "method",
        "size",
        "formula",
        "trainable",
        "identity\nat start",
        "packable",
        "exact\nLoRA rank",
        "lr",
    ):
        table.add_column(heading, justify="right" if heading in ("trainable", "lr") else "left")
    for row in rows:
        table.add_row(
            row.method,
            row.size,
            row.formula,
            "" if row.num_parameters is None else f"{row.num_parameters:,}",
            {True: "yes", False: "no", None: ""}[row.starts_at_identity],
            "yes" if row.is_packable else "no",
            "none" if row.exact_rank is None else str(row.exact_rank),
            f"{row.lr:g}",
        )
    # A pipe has no width: the numbers must survive `| grep` whole.
    console = Console(markup=False, emoji=False)
    (console if console.is_terminal else Console(width=160, markup=False, emoji=False)).print(table)


def find_methods(config: MethodsConfig) -> list[MethodRow]:
    """Returns the table for the base and the adapter settings; Raises as `print_methods`."""
    from delora_sd.diffusion.bases import find_base
    from delora_sd.diffusion.parts import load_denoiser

    check_known(config.adapter)
    base = find_base(config.model)
    denoiser = load_denoiser(base, device="meta", dtype=torch.float32)
    adapter, fused_rows = with_default_layers(config.adapter, base.family), base.family.fused_rows(denoiser)
    return method_rows(denoiser, adapter, fused_rows=fused_rows)


def method_rows(unet: nn.Module, config: AdapterConfig, *, fused_rows: FusedRows = UNFUSED) -> list[MethodRow]:
    """Returns the table for a UNet, which may be on the meta device."""
    rows = []
    for method in METHODS:
        ranks = sorted({TABLE_3_LORA_RANK, config.rank}) if method == "lora" else [config.rank]
        rows += [_own_row(unet, replace(config, method=method, rank=rank), fused_rows) for rank in ranks]
    return rows + [_delegated_row(unet, replace(config, method=method)) for method in _DELEGATED_FORMULAS]


def count_parameters(model: nn.Module, config: AdapterConfig, *, fused_rows: FusedRows = UNFUSED) -> int | None:
    """Returns how many numbers a method trains on a model, which may be on the meta device; None: not known."""
    if config.method not in METHODS:
        return _count_delegated(model, config)
    alike: dict[tuple, list[str]] = {}
    for name, layer in find_targets(model, config.target_modules).items():
        key = (tuple(layer.weight.shape), fused_rows.get(name, ()), name if config.rank_pattern else "")
        alike.setdefault(key, []).append(name)
    # The count needs shapes only: a weight of one zero stands for the frozen ones.
    total = 0
    for (shape, rows, _), names in alike.items():
        weight, own_rows = {names[0]: torch.zeros(()).expand(shape)}, {names[0]: rows}
        total += len(names) * create_adapter(config, weight, seed=0, fused_rows=own_rows).num_parameters()
    return total


def _own_row(unet: nn.Module, config: AdapterConfig, fused_rows: FusedRows) -> MethodRow:
    method = METHODS[config.method]
    return MethodRow(
        method=config.method,
        size=f"r {config.rank}" if method.uses_rank else "",
        formula=method.formula,
        num_parameters=count_parameters(unet, config, fused_rows=fused_rows),
        starts_at_identity=method.starts_at_identity,
        is_packable=is_packable(config.method),
        exact_rank=None if method.exact_rank is None else method.exact_rank(config),
        lr=method.lr,
    )


def _delegated_row(unet: nn.Module, config: AdapterConfig) -> MethodRow:
    return MethodRow(
        method=config.method,
        size=f"n {config.num_blocks}" if config.method == "oft" else "",
        formula=_DELEGATED_FORMULAS[config.method],
        num_parameters=count_parameters(unet, config),
        starts_at_identity=None if config.method == "peft" else True,
        is_packable=False,
        exact_rank=None,
        lr=default_learning_rate(config.method),
    )


def _count_delegated(unet: nn.Module, config: AdapterConfig) -> int | None:
    if config.method == "full":
        return sum(parameter.numel() for parameter in unet.parameters())
    if config.method == "oft":
        return sum(_oft_parameters(size, config.num_blocks) for size in check_num_blocks(unet, config).values())
    if config.peft_config is None:
        return None
    return attach_peft(unet, config, seed=0).adapters[0].num_parameters()


def _oft_parameters(in_features: int, num_blocks: int) -> int:
    """A skew-symmetric block of side b has b (b - 1) / 2 free entries."""
    side = in_features // num_blocks
    return num_blocks * side * (side - 1) // 2
