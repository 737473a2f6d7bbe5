"""What we ask of PEFT: build a configuration, put its layers in, load their tensors, merge one of them."""

import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.patterns import check_pattern
from delora_sd.adapters.peft.layout import CONFIG_FILE, PEFT_FILE, PREFIX
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.run_folder import write_folder, write_json
from delora_sd.files.tensors import read_tensors, write_tensors

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

ADAPTER_NAME = "default"

PARAMETERS = ("weight", "bias")
"""What a frozen layer has and an adapter may change."""

_LOADS_OTHERS = ("XLORA",)
"""Their configuration names further adapters, which PEFT would fetch from anywhere."""

_PATTERNS = ("rank_pattern", "alpha_pattern", "lambda_pattern", "layers_pattern", "target_modules", "exclude_modules")
"""Where a configuration may hold regular expressions: keys of a mapping, or one string."""


def build_config(values: dict[str, Any], *, source: Path) -> "PeftConfig":
    from peft import PeftConfig

    kind, known = str(values.get("peft_type")), known_kinds()
    if kind not in known:
        raise UserError(f"{source}: peft_type '{kind[:40]}' is unknown{nearest_name(kind, known)}")
    if values.get("bias", "none") != "none" or values.get("modules_to_save"):
        raise UserError(f"{source}: bias and modules_to_save train more than the adapter; use bias=none and no modules")
    for key in _PATTERNS:
        given = values.get(key)
        for pattern in [given] if isinstance(given, str) else given or () if key.endswith("_pattern") else ():
            check_pattern(pattern, source=f"{source}: {key}")
    start = str(values.get("init_lora_weights")).lower()
    if "_niter_" in start:
        raise UserError(
            f"{source}: init_lora_weights={start} takes another part out of the base at every load; use pissa"
        )
    ours = {"inference_mode": False, "task_type": None, "base_model_name_or_path": None, "auto_mapping": None}
    try:
        return PeftConfig.from_peft_type(**(values | ours))
    except Exception as error:  # every method checks in its own way
        raise UserError(f"{source}: PEFT refuses this configuration: {_first_line(error)}") from None


def known_kinds() -> list[str]:
    """Returns PEFT's methods for layers; those for prompts read files of their own."""
    from peft.config import PromptLearningConfig
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING, PEFT_TYPE_TO_TUNER_MAPPING

    kinds = [kind for kind in PEFT_TYPE_TO_TUNER_MAPPING if kind in PEFT_TYPE_TO_CONFIG_MAPPING]
    kinds = [kind for kind in kinds if not issubclass(PEFT_TYPE_TO_CONFIG_MAPPING[kind], PromptLearningConfig)]
    return [kind.value for kind in kinds if kind.value not in _LOADS_OTHERS]


def inject(model: nn.Module, config: "PeftConfig", *, source: str) -> "PeftModel":
    """Returns PEFT's model around `model`, whose layers it replaced; adapter parameters are fp32.

    Raises:
        UserError: PEFT refuses; `source` names the setting or file.
    """
    from peft import get_peft_model

    try:
        return get_peft_model(model, config, ADAPTER_NAME, autocast_adapter_dtype=True)
    except Exception as error:  # every method fails in its own way on settings that do not fit
        raise UserError(f"{source}: PEFT refuses: {_first_line(error)}") from None


def save_state(model: "PeftModel", folder: Path, *, base: str, method: str) -> None:
    """Writes PEFT's adapter folder, whole or not at all; `base` is the id of the model it belongs to."""
    from peft import get_peft_model_state_dict

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Adapter .* have invalid shape")  # PEFT of biases of its own
        state = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: value.detach().clone() for name, value in state.items()}
    config = json_ready(model.peft_config[ADAPTER_NAME].to_dict())
    config |= {"base_model_name_or_path": base, "inference_mode": True, "auto_mapping": None}

    def write(path: Path) -> None:
        write_tensors(path / PEFT_FILE, tensors, {"format": "pt", "delora.base": base, "delora.method": method})
        write_json(path / CONFIG_FILE, config)

    write_folder(folder, write)


def load_state(model: "PeftModel", folder: Path) -> None:
    from peft import set_peft_model_state_dict

    tensors, _ = read_tensors(folder / PEFT_FILE)
    try:
        result = set_peft_model_state_dict(model, tensors, ADAPTER_NAME)
    except Exception as error:
        # Second line: "size mismatch for <layer>: copying a param with shape [..], the shape in current model is [..]"
        reason = str(error).strip().split("\n")[1:2] or [str(error)]
        raise UserError(f"{folder} was made for another base: {reason[0].strip()}") from None
    if result.unexpected_keys:
        raise UserError(f"{folder}: '{result.unexpected_keys[0]}' does not belong to its own {CONFIG_FILE}")
    if missing := _missing(model, set(result.missing_keys)):
        raise UserError(f"{folder}: '{missing[0]}' is missing, without which PEFT would draw something at random")


def _missing(model: nn.Module, missing_keys: set[str]) -> list[str]:
    """Returns the trained parameters that no tensor filled; one that layers share has many names, and one is enough."""
    names: dict[int, list[str]] = {}
    for name, value in model.named_parameters(remove_duplicate=False):
        if value.requires_grad:
            names.setdefault(id(value), []).append(name)
    return [own[0] for own in names.values() if missing_keys.issuperset(own)]


def tuner_layers(model: "PeftModel") -> Iterator[tuple[str, "BaseTunerLayer"]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer"):
            yield name.removeprefix(PREFIX), module


@torch.no_grad()
def parameter_change(layer: "BaseTunerLayer", name: str, value: Tensor, start: Tensor | None = None) -> Tensor:
    """Returns W' - W by PEFT's merge on a copy of the layer's parameters; nothing stays merged.

    Args:
        name: Of the parameter, weight or bias.
        value: The frozen parameter W, fp32, in the layer's own shape.
        start: What PEFT's start did to W when the adapter was put in (PiSSA, OLoRA, ...), see `base_changes`.
    """
    base = layer.to(value.device).get_base_layer()
    frozen = {own: getattr(base, own).data for own in PARAMETERS if getattr(base, own, None) is not None}
    for own, kept in frozen.items():
        getattr(base, own).data = kept.float().clone()
    getattr(base, name).data = value.clone() if start is None else value + start.to(value.device)
    try:
        layer.merge(adapter_names=[ADAPTER_NAME])
        return getattr(base, name).data.float() - value
    finally:
        layer.merged_adapters.clear()
        for own, kept in frozen.items():
            getattr(base, own).data = kept


def frozen_parameters(model: nn.Module, config: "PeftConfig") -> dict[str, Tensor]:
    """Returns {name: a copy on the CPU} of the weights and biases that PEFT will put its layers around."""
    return {
        f"{layer}.{name}": value.detach().to("cpu", copy=True)
        for layer, module in model.named_modules()
        if selects(config, layer)
        for name, value in module.named_parameters(recurse=False)
        if name in PARAMETERS
    }


@torch.no_grad()
def base_changes(model: "PeftModel", before: dict[str, Tensor]) -> dict[str, Tensor]:
    """Returns {parameter: what PEFT's start did to it}, fp32 on the CPU; {} when the frozen weights are untouched."""
    changes = {}
    for layer, module in tuner_layers(model):
        for name in PARAMETERS:
            if (old := before.get(f"{layer}.{name}")) is not None:
                new = getattr(module.get_base_layer(), name).detach().cpu()
                if not torch.equal(new, old):
                    changes[f"{layer}.{name}"] = new.float() - old.float()
    return changes


def selects(config: "PeftConfig", layer: str) -> bool:
    """True when PEFT would put the adapter into the layer of this name."""
    from peft.tuners.tuners_utils import check_target_module_exists

    return bool(getattr(config, "target_modules", None)) and bool(check_target_module_exists(config, layer))


def json_ready(value: Any) -> Any:
    """Returns sets as sorted lists and enumerations as their value, as PEFT writes them."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    return json.loads(json.dumps(value, default=lambda item: getattr(item, "value", str(item))))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
