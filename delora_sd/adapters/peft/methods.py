"""Methods that PEFT computes: `oft`, and `peft` with any PEFT configuration (LoHa, LoKr, BOFT, HRA, VeRA, ...).

The same small interface as an AdapterPack of one; saved in PEFT's own layout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import nn

from delora_sd.adapters.lowrank.pack import ADAPTABLE, find_targets
from delora_sd.adapters.lowrank.pack_of_one import AdapterInUNet, PackOfOne, compute_in
from delora_sd.adapters.peft.bridge import (
    base_changes,
    build_config,
    frozen_parameters,
    inject,
    load_state,
    parameter_change,
    save_state,
    tuner_layers,
)
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_json
from delora_sd.quantization import dense_weight, is_quantized
from delora_sd.settings import AdapterConfig

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel


class PeftAdapter(AdapterInUNet):
    """The trained parameters of a PEFT model."""

    def __init__(self, config: AdapterConfig, model: "PeftModel"):
        super().__init__(config, ((name, value) for name, value in model.named_parameters() if value.requires_grad))
        self._model = (model,)  # a tuple: the UNet inside is not this module's child

    @property
    def model(self) -> "PeftModel":
        return self._model[0]

    def save(self, folder: Path, *, base: str) -> None:
        """Writes PEFT's adapter folder, whole or not at all."""
        save_state(self.model, folder, base=base, method=self.config.method)

    def restore(self, folder: Path) -> None:
        """Takes over saved tensors, bit for bit: how training resumes."""
        load_state(self.model, folder)


class PeftPack(PackOfOne):
    """A UNet with PEFT's layers in it, as a pack of one."""

    def __init__(self, adapter: PeftAdapter, starts: dict[str, torch.Tensor]):
        super().__init__(adapter)
        self._starts = starts  # {parameter: what PEFT's start did to the frozen one}, on the CPU

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        """Inside, nothing is dropped: what is drawn is what was trained, not what training sees."""
        modules = [module for _, layer in tuner_layers(self.adapters[0].model) for module in layer.modules()]
        was_training = [module.training for module in modules]
        for module in modules:
            module.training = False
        try:
            yield
        finally:
            for module, training in zip(modules, was_training, strict=True):
                module.training = training

    @torch.no_grad()
    def distances(self) -> list[dict[str, tuple[float, float]]]:
        """Returns [{layer: (||W' - W||_F, the same over ||W||_F)}]."""
        found = {}
        for name, layer in tuner_layers(self.adapters[0].model):
            weight, start = dense_weight(layer.get_base_layer()).float(), self._starts.get(f"{name}.weight")
            if start is not None:
                start = start.to(weight.device)
                weight = weight - start
            distance = parameter_change(layer, "weight", weight, start).norm().item()
            found[name] = (distance, distance / max(weight.norm().item(), 1e-12))
        return [found]


def attach_peft(unet: nn.Module, config: AdapterConfig, *, seed: int) -> PeftPack:
    """Freezes the UNet and puts PEFT's layers into it; the start depends on the seed only.

    Raises:
        UserError: a configuration that PEFT does not accept, or that trains more than adapter tensors.
    """
    unet.requires_grad_(False)
    if any(isinstance(module, ADAPTABLE) and is_quantized(module) for module in unet.modules()):
        raise UserError(f"adapter.method: {config.method} has no quantised base; use model.quantization=none")
    peft_config = oft_config(config, unet) if config.method == "oft" else read_peft_config(config)
    dtype = next(unet.parameters()).dtype
    before = frozen_parameters(unet, peft_config)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = inject(unet, peft_config, source=f"adapter.method={config.method}")
    compute_in(unet, dtype)
    adapter = PeftAdapter(config, model)
    if not adapter.num_parameters():
        raise UserError(f"{config.peft_config}: this PEFT configuration trains nothing on the UNet")
    return PeftPack(adapter, base_changes(model, before))


def oft_config(config: AdapterConfig, unet: nn.Module) -> "PeftConfig":
    """Returns PEFT's OFT with `num_blocks` diagonal blocks per layer and the exact Cayley transform.

    The Neumann series turns the other way round: a file trained with one and loaded with the other is inverted.
    """
    from peft import OFTConfig

    check_num_blocks(unet, config)
    return OFTConfig(
        r=config.num_blocks,
        oft_block_size=0,
        use_cayley_neumann=False,
        target_modules=list(config.target_modules),
    )


def check_num_blocks(unet: nn.Module, config: AdapterConfig) -> dict[str, int]:
    """Returns {layer: in_features}. Raises UserError unless every layer is Linear and divides into the blocks."""
    sizes = {}
    for name, layer in find_targets(unet, config.target_modules).items():
        if isinstance(layer, nn.Conv2d):
            raise UserError(f"adapter.target_modules: {name} is a convolution; OFT takes Linear layers only")
        sizes[name] = layer.weight.shape[1]
        if config.num_blocks < 1 or sizes[name] % config.num_blocks:
            raise UserError(
                f"adapter.num_blocks: {config.num_blocks} does not divide the {sizes[name]} inputs of {name}"
            )
    return sizes


def read_peft_config(config: AdapterConfig) -> "PeftConfig":
    """Returns the configuration in `adapter.peft_config`; its layers are `target_modules` unless it names some."""
    if config.peft_config is None:
        raise UserError("adapter.peft_config: missing; adapter.method=peft needs a JSON file with a PEFT configuration")
    path = Path(config.peft_config).expanduser()
    values = read_json(path)
    if not isinstance(values, dict):
        raise UserError(f"{path}: expected settings, found {type(values).__name__}")
    return build_config({"target_modules": list(config.target_modules)} | values, source=path)
