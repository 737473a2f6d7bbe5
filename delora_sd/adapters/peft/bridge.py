"""What we ask of PEFT: build a configuration, put its layers in, load their tensors, merge one of them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from delora_sd.adapters.lowrank.patterns import check_pattern
from delora_sd.adapters.peft.layout import CONFIG_FILE, PEFT_FILE, PREFIX
from delora_sd.errors import UserError, nearest_name
from delora_sd.files.tensors import read_tensors

if TYPE_CHECKING:
    from peft import PeftConfig, PeftModel
    from peft.tuners.tuners_utils import BaseTunerLayer

ADAPTER_NAME = "default"

_LOADS_OTHERS = ("XLORA",)
"""Their configuration names further adapters, which PEFT would fetch from anywhere."""

_PATTERNS = ("rank_pattern", "alpha_pattern", "lambda_pattern", "layers_pattern", "target_modules", "exclude_modules")
"""Where a configuration may hold regular expressions: keys of a mapping, or one string."""


def build_config(values: dict[str, Any], *, source: Path) -> "PeftConfig":
    from peft import PeftConfig

    kind, known = str(values.get("peft_type")), _known_kinds()
    if kind not in known:
        raise UserError(f"{source}: peft_type '{kind[:40]}' is unknown{nearest_name(kind, known)}")
    if values.get("bias", "none") != "none" or values.get("modules_to_save"):
        raise UserError(f"{source}: bias and modules_to_save train more than the adapter; use bias=none and no modules")
    for key in _PATTERNS:
        given = values.get(key)
        for pattern in [given] if isinstance(given, str) else given or () if key.endswith("_pattern") else ():
            check_pattern(pattern, source=f"{source}: {key}")
    ours = {"inference_mode": False, "task_type": None, "base_model_name_or_path": None, "auto_mapping": None}
    try:
        return PeftConfig.from_peft_type(**(values | ours))
    except Exception as error:  # every method checks in its own way
        raise UserError(f"{source}: PEFT refuses this configuration: {_first_line(error)}") from None


def _known_kinds() -> list[str]:
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


def tuner_layers(model: "PeftModel") -> Iterator[tuple[str, "BaseTunerLayer"]]:
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in model.named_modules():
        if isinstance(module, BaseTunerLayer) and hasattr(module, "base_layer"):
            yield name.removeprefix(PREFIX), module


@torch.no_grad()
def layer_update(layer: "BaseTunerLayer", weight: Tensor) -> Tensor:
    """Returns W' - W by PEFT's merge on a copy of `weight` (fp32, the layer's own shape); nothing stays merged."""
    parameter = layer.get_base_layer().weight
    frozen = parameter.data
    parameter.data = weight.clone()
    try:
        layer.to(weight.device).merge(adapter_names=[ADAPTER_NAME])
        return layer.get_base_layer().weight.data - weight
    finally:
        layer.merged_adapters.clear()
        layer.get_base_layer().weight.data = frozen


def json_ready(value: Any) -> Any:
    """Returns sets as sorted lists and enumerations as their value, as PEFT writes them."""
    if isinstance(value, set):
        return sorted(value)
    if isinstance(value, dict):
        return {key: json_ready(item) for key, item in value.items()}
    return json.loads(json.dumps(value, default=lambda item: getattr(item, "value", str(item))))


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n")[0] or type(error).__name__
