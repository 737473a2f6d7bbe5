"""Methods that PEFT computes: `oft`, and `peft` with any PEFT configuration (LoHa, LoKr, BOFT, HRA, VeRA, ...).

The same small interface as an AdapterPack of one; saved in PEFT's own layout.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from delora_sd.adapters.full_finetuning import compute_in
from delora_sd.adapters.pack import ADAPTABLE, find_targets
from delora_sd.adapters.peft_layout import CONFIG_FILE, PEFT_FILE, PREFIX
from delora_sd.adapters.quantization import dense_weight, is_quantized
from delora_sd.errors import UserError, nearest_name
from delora_sd.run_folder import read_json, write_folder, write_json
from delora_sd.settings import AdapterConfig
from delora_sd.tensor_file import read_tensors, write_tensors

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

_NAME = "default"


class PeftAdapter(nn.Module):
    """The trained parameters of a PEFT model. It shares them with the UNet's layers."""

    def __init__(self, config: AdapterConfig, model: "PeftModel"):
        super().__init__()
        self.config = config
        self._model = (model,)  # a tuple: the UNet inside is not this module's child
        named = [(name, parameter) for name, parameter in model.named_parameters() if parameter.requires_grad]
        self._names = [name for name, _ in named]
        self.weights = nn.ParameterList(parameter for _, parameter in named)

    @property
    def model(self) -> "PeftModel":
        return self._model[0]

    def parameters_by_name(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield from zip(self._names, self.weights, strict=True)

    def num_parameters(self) -> int:
        return sum(parameter.numel() for parameter in self.weights)

    def boundaries(self) -> dict[str, float]:
        return {}

    def save(self, folder: Path, *, base: str) -> None:
        """Writes PEFT's adapter folder, whole or not at all."""
        from peft import get_peft_model_state_dict

        tensors = {name: value.detach().clone() for name, value in get_peft_model_state_dict(self.model).items()}
        config = _json_ready(self.model.peft_config[_NAME].to_dict())
        config |= {"base_model_name_or_path": base, "inference_mode": True, "auto_mapping": None}

        def write(path: Path) -> None:
            metadata = {"format": "pt", "delora.base": base, "delora.method": self.config.method}
            write_tensors(path / PEFT_FILE, tensors, metadata)
            write_json(path / CONFIG_FILE, config)

        write_folder(folder, write)

    def restore(self, folder: Path) -> None:
        """Takes over saved tensors, bit for bit: how training resumes."""
        _load_state(self.model, folder)


class PeftPack(nn.Module):
    """A UNet with PEFT's layers in it, as a pack of one."""

    def __init__(self, adapter: PeftAdapter):
        super().__init__()
        self.adapters = nn.ModuleList([adapter])

    def make_factors(self) -> None:
        """Nothing to make: PEFT's layers compute their own update."""

    @contextmanager
    def only(self, index: int) -> Iterator[None]:
        yield

    @torch.no_grad()
    def distances(self) -> list[dict[str, tuple[float, float]]]:
        """Returns [{layer: (||W' - W||_F, the same over ||W||_F)}]."""
        found = {}
        for name, layer in _tuner_layers(self.adapters[0].model):
            weight = dense_weight(layer.get_base_layer()).float()
            distance = _update(layer, weight).norm().item()
            found[name] = (distance, distance / max(weight.norm().item(), 1e-12))
        return [found]


def attach_peft(unet: nn.Module, config: AdapterConfig, *, seed: int) -> PeftPack:
    """Freezes the UNet and puts PEFT's layers into it; the start depends on the seed only.

    Raises:
        UserError: a configuration that PEFT does not accept, or that trains more than adapter tensors.
    """
    from peft import get_peft_model

    unet.requires_grad_(False)
    if any(isinstance(module, ADAPTABLE) and is_quantized(module) for module in unet.modules()):
        raise UserError(f"adapter.method: {config.method} has no quantised base; use model.quantization=none")
    peft_config = oft_config(config, unet) if config.method == "oft" else read_peft_config(config)
    dtype = next(unet.parameters()).dtype
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        try:
            model = get_peft_model(unet, peft_config, _NAME, autocast_adapter_dtype=True)
        except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
            raise UserError(f"adapter.method={config.method}: PEFT refuses: {_first_line(error)}") from None
    compute_in(unet, dtype)
    adapter = PeftAdapter(config, model)
    if not adapter.num_parameters():
        raise UserError(f"{config.peft_config}: this PEFT configuration trains nothing on the UNet")
    return PeftPack(adapter)


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
    return _build_config({"target_modules": list(config.target_modules)} | values, source=path)


def _build_config(values: dict[str, Any], *, source: Path) -> "PeftConfig":
    from peft import PeftConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    known = [kind.value for kind in PEFT_TYPE_TO_TUNER_MAPPING if kind in PEFT_TYPE_TO_CONFIG_MAPPING]
    kind = str(values.get("peft_type"))
    if kind not in known:
        raise UserError(f"{source}: peft_type '{kind}' is unknown{nearest_name(kind, known)}")
    if values.get("bias", "none") != "none" or values.get("modules_to_save"):
        raise UserError(f"{source}: bias and modules_to_save train more than the adapter; use bias=none and no modules")
    ours = {"inference_mode": False, "task_type": None, "base_model_name_or_path": None, "auto_mapping": None}
    try:
        return PeftConfig.from_peft_type(**(values | ours))
    except (TypeError, ValueError, KeyError) as error:
        raise UserError(f"{source}: PEFT refuses this configuration: {_first_line(error)}") from None


def load_peft_updates(folder: Path, unet: nn.Module) -> dict[str, Callable[[Tensor], Tensor]]:
    """Returns {parameter name: W -> W' - W} of any PEFT folder, through PEFT's own merge of each layer."""
    from peft import get_peft_model

    tensors, _ = read_tensors(folder / PEFT_FILE)
    skeleton = _skeleton(unet, _layers_in(tensors, unet, source=folder))
    config = _build_config(read_json(folder / CONFIG_FILE), source=folder / CONFIG_FILE)
    try:
        model = get_peft_model(skeleton, config, _NAME)
    except (ValueError, TypeError, NotImplementedError, RuntimeError) as error:
        raise UserError(f"{folder}: PEFT refuses: {_first_line(error)}") from None
    _load_state(model, folder)
    return {f"{name}.weight": partial(_update, layer) for name, layer in _tuner_layers(model)}


def _layers_in(tensors: dict[str, Tensor], unet: nn.Module, *, source: Path) -> list[str]:
    """Returns the UNet's layers that the tensors belong to; tensors shared by all layers (VeRA) belong to none."""
    layers = {name for name, module in unet.named_modules() if isinstance(module, ADAPTABLE)}
    found = {}
    for key in tensors:
        parts = key.removeprefix(PREFIX).split(".")
        own = [name for count in range(len(parts), 0, -1) if (name := ".".join(parts[:count])) in layers]
        if own:
            found[own[0]] = None
        elif len(parts) > 2:
            raise UserError(f"{source} was made for another base: this UNet has no layer of '{key}'")
    return list(found)


def _skeleton(unet: nn.Module, names: list[str]) -> nn.Module:
    """Returns a tree of modules with the named layers only, in fp32: PEFT's layers go in here, not into the UNet."""
    root = nn.Module()
    for name in names:
        *path, last = name.split(".")
        parent = root
        for part in path:
            if part not in dict(parent.named_children()):
                parent.add_module(part, nn.Module())
            parent = parent.get_submodule(part)
        parent.add_module(last, _copy_layer(unet.get_submodule(name)))
    return root


def _copy_layer(layer: nn.Module) -> nn.Module:
    if isinstance(layer, nn.Conv2d):
        copy = nn.Conv2d(
            layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding, bias=False,
            device="meta",
        )  # fmt: skip
    else:
        copy = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    copy.weight = nn.Parameter(dense_weight(layer).float().clone(), requires_grad=False)
    return copy


def _load_state(model: "PeftModel", folder: Path) -> None:
    from peft import set_peft_model_state_dict

    tensors, _ = read_tensors(folder / PEFT_FILE)
    try:
        result = set_peft_model_state_dict(model, tensors, _NAME)
    except RuntimeError as error:
        # Second line: "size mismatch for <layer>: copying a param with shape [..], the shape in current model is [..]"
        reason = str(error).strip().split("\n")[1:2] or [str(error)]
        raise UserError(f"{folder} was made for another base: {reason[0].strip()}") from None
    if result.unexpected_keys:
        raise UserError(f"{folder}: '{result.unexpected_keys[0]}' does not belong to its own {CONFIG_FILE}")


def _tuner_layers(model: "PeftModel") -> Iterator[tuple[str, "BaseTunerLayer"]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer"):
            yield name.removeprefix(PREFIX), module


@torch.no_grad()
def _update(layer: "BaseTunerLayer", weight: Tensor) -> Tensor:
    """Returns W' - W by PEFT's merge on a copy of `weight` (fp32, the layer's own shape); nothing stays merged."""
    parameter = layer.get_base_layer().weight
    frozen = parameter.data
    parameter.data = weight.clone()
    try:
        layer.to(weight.device).merge(adapter_names=[_NAME])
        return layer.get_base_layer().weight.data - weight
    finally:
        layer.merged_adapters.clear()
        layer.get_base_layer().weight.data = frozen


def _json_ready(value: Any) -> Any:
    """Returns sets as sorted lists and enumerations as their value, as PEFT writes them."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {key: _json_ready(item) for key, item in value.items()}
    return json.loads(json.dumps(value, default=lambda item: getattr(item, "value", str(item))))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0]
