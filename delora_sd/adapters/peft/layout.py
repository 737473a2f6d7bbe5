"""PEFT's own layout of DeLoRA, LoRA and DoRA: its config file and its tensor names, both ways.

Knows names and shapes, no files.
"""

import re
import warnings
from typing import Any

from torch import Tensor

from delora_sd.adapters.lowrank.adapter import Adapter
from delora_sd.adapters.lowrank.methods import LayerSpec, Tensors
from delora_sd.adapters.lowrank.patterns import pattern_value
from delora_sd.adapters.peft.lora_config import beyond_plain_lora, declared_alpha
from delora_sd.errors import UserError
from delora_sd.files.records import check_record
from delora_sd.settings import AdapterConfig

CONFIG_FILE = "adapter_config.json"
PEFT_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."

_DELORA_NAMES = {"delora_A": "A", "delora_B": "B", "delora_lambda": "boundary", "delora_w_norm": "weight_norm"}
_LORA_NAMES = {"lora_A.weight": "A", "lora_B.weight": "B", "lora_magnitude_vector": "magnitude"}
_NAMES = {"DELORA": _DELORA_NAMES, "LORA": _LORA_NAMES}
PEFT_TYPES = tuple(_NAMES)

_FIELDS = {"delora_lambda": float, "lambda_pattern": dict | None}


def reason_not_expressible(adapter: Adapter) -> str | None:
    """Returns why PEFT cannot hold this adapter as it is, None when it can.

    A Frobenius norm or none is expressible: PEFT keeps `delora_w_norm` as a saved vector, here a constant one.
    """
    if adapter.config.method in ("lora", "dora"):
        return None
    if adapter.config.method not in ("delora", "normalized_lora"):
        return f"PEFT has no method '{adapter.config.method}'"
    if any(spec.rows for spec in adapter.specs().values()):
        return "PEFT's DeLoRA has one boundary for a fused layer, not one for each of q, k, v and the MLP"
    if adapter.config.init == "frozen_copy":
        return "PEFT's DeLoRA cannot subtract a frozen copy of the initial update"
    if any(len(spec.shape) != 2 for spec in adapter.specs().values()):
        return "PEFT's DeLoRA has no convolutions"
    return None


def to_peft(adapter: Adapter, *, base: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Returns PEFT's (adapter_config.json, tensors) of an expressible adapter."""
    is_lora = adapter.config.method in ("lora", "dora")
    config = _lora_config(adapter) if is_lora else _delora_config(adapter)
    names = {ours: theirs for theirs, ours in (_LORA_NAMES if is_lora else _DELORA_NAMES).items()}
    specs, tensors = adapter.specs(), {}
    for layer, named in adapter.layer_tensors().items():
        for name, value in named.items():
            shaped = _to_peft_shape(name, value, specs[layer].shape)
            tensors[f"{PREFIX}{layer}.{names[name]}"] = shaped.contiguous()
    return _shared_config(written_targets(adapter), base) | config, tensors


def written_targets(adapter: Adapter) -> tuple[str, ...]:
    """Returns the settings' targets, or every layer by its name where PEFT would take a list of layers for one.

    FLUX.2's `to_out` is a layer in its single blocks and a list in its double ones, which PEFT refuses.
    """
    is_also_a_list = any(target.rpartition(".")[2] == "to_out" for target in adapter.config.target_modules)
    return tuple(adapter.specs()) if is_also_a_list else adapter.config.target_modules


def lora_config(ranks: dict[str, int], *, base: str, targets: list[str]) -> dict[str, Any]:
    """Returns the PEFT config of a plain LoRA whose factors are ready: alpha = rank in every layer."""
    rank = _most_common(list(ranks.values()))
    pattern = {f"^{layer}": value for layer, value in ranks.items() if value != rank}
    config = {"peft_type": "LORA", "r": rank, "lora_alpha": rank, "rank_pattern": pattern, "alpha_pattern": pattern}
    return _shared_config(targets, base) | config | {"use_dora": False, "lora_dropout": 0.0}


def _shared_config(targets: Any, base: str) -> dict[str, Any]:
    return {
        "base_model_name_or_path": base,
        "target_modules": sorted(targets),
        "bias": "none",
        "inference_mode": True,
        "task_type": None,
    }


def _lora_config(adapter: Adapter) -> dict[str, Any]:
    ranks, alphas = (_common_and_pattern(adapter, name) for name in ("rank", "alpha"))
    return {
        "peft_type": "LORA",
        "r": ranks[0],
        "rank_pattern": ranks[1],
        "lora_alpha": alphas[0],
        "alpha_pattern": alphas[1],
        "lora_dropout": 0.0,
        "use_dora": adapter.config.method == "dora",
    }


def _delora_config(adapter: Adapter) -> dict[str, Any]:
    ranks, boundaries = (_common_and_pattern(adapter, name) for name in ("rank", "boundary"))
    return {
        "peft_type": "DELORA",
        "r": ranks[0],
        "rank_pattern": ranks[1],
        "delora_lambda": boundaries[0],
        "lambda_pattern": boundaries[1],
        "module_dropout": 0.0,
    }


def _common_and_pattern(adapter: Adapter, name: str) -> tuple[float, dict[str, float]]:
    """Returns the most common value of a LayerSpec field and {^layer: value} where it differs, as PEFT writes it."""
    values = {layer: getattr(spec, name) for layer, spec in adapter.specs().items()}
    common = _most_common(list(values.values()))
    return common, {f"^{layer}": value for layer, value in values.items() if value != common}


def _most_common(values: list) -> Any:
    return max(dict.fromkeys(values), key=values.count)


def _to_peft_shape(name: str, value: Tensor, shape: tuple[int, ...]) -> Tensor:
    if name == "boundary":
        return value.reshape(1)
    if len(shape) == 2:
        return value
    shapes = {"A": (-1, *shape[1:]), "B": (*value.shape, 1, 1), "magnitude": (1, -1, 1, 1)}
    return value.reshape(shapes[name])


def from_peft(peft: dict[str, Any], tensors: dict[str, Tensor], *, source: str) -> Adapter:
    """Returns the adapter of a plain PEFT DeLoRA, LoRA or DoRA folder.

    Raises:
        UserError: a feature of PEFT that we do not have, or tensors that do not fit each other.
    """
    kind = peft["peft_type"]
    check_record(peft, {}, _FIELDS, source=f"{source}/{CONFIG_FILE}", advice="get the file again")
    numbers = peft.get("lambda_pattern") or {}
    where = f"{source}/{CONFIG_FILE}: lambda_pattern"
    check_record(numbers, dict.fromkeys(numbers, float), source=where, advice="get the file again")
    _refuse_what_we_lack(peft, source)
    _warn_of_lora_ga(peft, source)
    layers = {layer: _flatten(named) for layer, named in _by_layer(tensors, _NAMES[kind], source).items()}
    shapes = {layer: _weight_shape(tensors, layer, kind) for layer in layers}
    specs = {layer: _spec(peft, layer, named, shapes[layer], source) for layer, named in layers.items()}
    return Adapter(_config(peft, layers, specs), specs, layers)


def _refuse_what_we_lack(peft: dict[str, Any], source: str) -> None:
    if peft.get("modules_to_save"):
        raise UserError(
            f"{source}: modules_to_save={peft['modules_to_save']} trains whole layers, which no adapter holds"
        )
    if peft["peft_type"] == "LORA" and (more := beyond_plain_lora(peft)):
        raise UserError(f"{source}: {more} is more than a plain LoRA; merge it")
    if peft.get("bias", "none") != "none":
        raise UserError(f"{source}: bias={peft['bias']} trains biases, which no adapter here holds")


def _warn_of_lora_ga(peft: dict[str, Any], source: str) -> None:
    """LoRA-GA changes the frozen weights before it trains; its folder does not hold how, and PEFT loads it silently."""
    if str(peft.get("init_lora_weights")).lower() == "lora_ga":
        warnings.warn(
            f"{source}: init_lora_weights=lora_ga changed the frozen weights when training began; added to the "
            "untouched base, as PEFT does too, it draws something else unless it was converted when it was saved",
            stacklevel=2,
        )


def _by_layer(tensors: dict[str, Tensor], names: dict[str, str], source: str) -> dict[str, Tensors]:
    """Returns {layer: {our name: tensor}} from {prefix + layer + "." + PEFT's name: tensor}."""
    layers: dict[str, Tensors] = {}
    for key, value in tensors.items():
        theirs = next((name for name in names if key.endswith(f".{name}")), None)
        if theirs is None:
            raise UserError(f"{source}: unexpected tensor '{key}'; expected names ending with {', '.join(names)}")
        layer = key.removeprefix(PREFIX).removesuffix(f".{theirs}")
        layers.setdefault(layer, {})[names[theirs]] = value
    expected = set(names.values()) - {"magnitude"}
    for layer, named in layers.items():
        if missing := expected - set(named):
            raise UserError(f"{source}: layer {layer} lacks {', '.join(sorted(missing))}")
        if named["A"].ndim < 2 or named["B"].ndim < 2 or not named["A"].numel() or not named["B"].numel():
            shapes = f"A {tuple(named['A'].shape)}, B {tuple(named['B'].shape)}"
            raise UserError(f"{source}: layer {layer}: the factors are no matrices ({shapes})")
        rank_a, rank_b = named["A"].shape[0], named["B"].shape[1]
        if rank_a != rank_b:
            raise UserError(f"{source}: layer {layer}: A has rank {rank_a}, B has rank {rank_b}")
    if not layers:
        raise UserError(f"{source}: holds no adapter tensors")
    return layers


def _flatten(named: Tensors) -> Tensors:
    shapes = {"boundary": (), "weight_norm": (-1,), "magnitude": (-1,)}
    return {
        name: value.float().reshape(shapes[name]) if name in shapes else value.float().flatten(1)
        for name, value in named.items()
    }


def _weight_shape(tensors: dict[str, Tensor], layer: str, kind: str) -> tuple[int, ...]:
    down_name, up_name = list(_NAMES[kind])[:2]
    find = next(prefix for prefix in (PREFIX, "") if f"{prefix}{layer}.{down_name}" in tensors)
    down, up = tensors[f"{find}{layer}.{down_name}"], tensors[f"{find}{layer}.{up_name}"]
    return (up.shape[0], *down.shape[1:])


def _spec(peft: dict[str, Any], layer: str, named: Tensors, shape: tuple[int, ...], source: str) -> LayerSpec:
    rank = named["A"].shape[0]
    alpha = declared_alpha(peft, layer, rank, source=f"{source}/{CONFIG_FILE}")
    boundary = pattern_value(peft.get("lambda_pattern"), layer, peft.get("delora_lambda", 15.0), source=source)
    return LayerSpec(shape=shape, rank=rank, boundary=float(boundary), alpha=float(alpha))


def _config(peft: dict[str, Any], layers: dict[str, Tensors], specs: dict[str, LayerSpec]) -> AdapterConfig:
    has_magnitude = all("magnitude" in named for named in layers.values())
    method = "delora" if peft["peft_type"] == "DELORA" else "dora" if has_magnitude else "lora"
    targets = peft.get("target_modules")
    rank = _most_common([spec.rank for spec in specs.values()])
    boundary = _most_common([spec.boundary for spec in specs.values()])
    return AdapterConfig(
        method=method,
        rank=rank,
        boundary=boundary,
        alpha=_most_common([spec.alpha for spec in specs.values()]),
        init="zero_up",
        # A regular expression of PEFT's is replaced by the layers it chose.
        target_modules=tuple(map(str, targets)) if isinstance(targets, list) else tuple(layers),
        rank_pattern={f"^{re.escape(name)}$": spec.rank for name, spec in specs.items() if spec.rank != rank},
        boundary_pattern={
            f"^{re.escape(name)}$": spec.boundary for name, spec in specs.items() if spec.boundary != boundary
        },
    )
