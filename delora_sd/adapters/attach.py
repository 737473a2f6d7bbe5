"""The one door to every method: ours (a pack of K adapters), the whole UNet, or PEFT's.

What training needs of an attached method is the two protocols here; nothing else is called on it.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol, runtime_checkable

from torch import Tensor, nn

from delora_sd.adapters.full import FULL_TYPE, attach_full, load_full_updates
from delora_sd.adapters.lowrank.adapter import UNFUSED, FusedRows
from delora_sd.adapters.lowrank.methods import METHODS, check_adapter_config, resolve_layer
from delora_sd.adapters.lowrank.pack import attach_adapters, find_targets
from delora_sd.adapters.lowrank.patterns import check_pattern
from delora_sd.adapters.peft.layout import CONFIG_FILE
from delora_sd.adapters.peft.methods import attach_peft, check_num_blocks, read_peft_config
from delora_sd.adapters.peft.trial import check_works
from delora_sd.adapters.peft.updates import load_peft_updates
from delora_sd.diffusion.families.family import Family
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json
from delora_sd.settings import AdapterConfig

DELEGATED_RATES = {
    "full": 5e-6,  # oft-db/train_dreambooth.sh and diffusers' README
    "oft": 6e-5,  # oft-db/train_dreambooth_oft.sh
    "peft": 1e-4,  # LoRA, HRA and others in scripts of the OFT family; every PEFT method has its own best rate
}
"""Learning rates of the methods that are not low-rank factors of parameters and a frozen weight."""


@runtime_checkable
class Trainable(Protocol):
    """One adapter, an nn.Module: its parameters by name, and what is logged of it."""

    config: AdapterConfig

    def parameters(self) -> Iterator[nn.Parameter]: ...
    def parameters_by_name(self) -> Iterator[tuple[str, nn.Parameter]]: ...
    def num_parameters(self) -> int: ...
    def boundaries(self) -> dict[str, float]: ...


@runtime_checkable
class Attached(Protocol):
    """Adapters on a UNet, an nn.Module; `adapters[k]` serves the k-th equal share of a batch."""

    adapters: nn.ModuleList

    def make_factors(self) -> None: ...
    def only(self, index: int) -> AbstractContextManager[None]: ...
    def distances(self) -> list[dict[str, tuple[float, float]]]: ...


def known_methods() -> tuple[str, ...]:
    """Returns every accepted `adapter.method`."""
    return (*METHODS, *DELEGATED_RATES)


def check_known(config: AdapterConfig) -> None:
    """Raises UserError for an unknown method or settings no layer could satisfy; called before any model loads."""
    check_adapter_config(config, known_methods())
    for key in ("rank_pattern", "boundary_pattern"):
        for pattern in getattr(config, key):
            check_pattern(pattern, source=f"adapter.{key}")
    if config.method == "peft":
        read_peft_config(config)


def check_layers(config: AdapterConfig, unet: nn.Module) -> None:
    """Raises UserError for layers the UNet lacks and ranks they cannot have; it may be on device "meta"."""
    if config.method == "peft":  # its configuration may name layers of its own
        check_works(read_peft_config(config), unet, source=str(config.peft_config))
        return
    targets = find_targets(unet, config.target_modules)
    if config.method == "oft":
        check_num_blocks(unet, config)
    if config.method in METHODS:
        shape_only = replace(config, boundary_unit="paper")  # the other unit reads the weights
        for name, layer in targets.items():
            resolve_layer(name, shape_only, layer.weight)


def with_default_layers(config: AdapterConfig, family: Family) -> AdapterConfig:
    """Returns the settings with the layers that are adapted on this family where none are asked for."""
    is_asked = config.target_modules != AdapterConfig().target_modules
    return config if is_asked else replace(config, target_modules=family.default_layers)


def is_packable(method: str) -> bool:
    """True when several adapters of the method can train in one batch."""
    return method in METHODS


def default_learning_rate(method: str) -> float:
    """Returns the rate used while `optimizer.lr` is none; the method's preset names the source."""
    return METHODS[method].lr if method in METHODS else DELEGATED_RATES[method]


def attach_method(
    unet: nn.Module, configs: list[AdapterConfig], *, seeds: list[int], fused_rows: FusedRows = UNFUSED
) -> Attached:
    """Puts fresh adapters on the UNet, frozen but for `full`; each slice of a fused matrix gets its own boundary.

    Raises:
        UserError: several adapters of a method that cannot be packed, or settings that do not fit the layers.
    """
    method = configs[0].method
    if method in METHODS:
        return attach_adapters(unet, configs, seeds=seeds, fused_rows=fused_rows)
    if len(configs) > 1:
        raise UserError(f"adapter.method: {method} cannot train several adapters in one batch; use a pack of one")
    if method == "full":
        return attach_full(unet, configs[0])
    return attach_peft(unet, configs[0], seed=seeds[0])


def load_updates(folder: Path, unet: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns {parameter name: W -> W' - W} of a folder with a whole UNet or any of PEFT's methods."""
    is_full = read_json(folder / CONFIG_FILE).get("peft_type") == FULL_TYPE
    return load_full_updates(folder, unet) if is_full else load_peft_updates(folder, unet)
