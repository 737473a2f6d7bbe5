"""Where a language model lies and how it is loaded: the bundled miniature, a local folder, the hub."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from delora_sd.config.load import read_yaml
from delora_sd.errors import UserError
from delora_sd.files.hub import find_model_folder
from delora_sd.files.run_folder import read_json
from delora_sd.language.models.families import max_positions
from delora_sd.language.settings import LanguageModelConfig
from delora_sd.quantization import quantize_linears

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MINIATURE = "miniature"
CONFIG_FILE = "config.json"
_WEIGHTS = Path(__file__).parents[1] / "miniature" / "weights"

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True, kw_only=True)
class LanguageBase:
    """A model's folder, what it is called, and its configuration."""

    name: str
    folder: Path
    config: Any


def find_shapes(model: LanguageModelConfig, *, is_causal: bool) -> Any:
    """Returns the configuration of the base; those of the paper's models are known without asking anybody."""
    from transformers import AutoConfig

    known = read_yaml(Path(__file__).with_name("architectures.yaml"))
    if model.base in known:
        return AutoConfig.for_model(**known[model.base])
    return find_language_base(model, is_causal=is_causal).config


def find_language_base(model: LanguageModelConfig, *, is_causal: bool) -> LanguageBase:
    """Returns the base without loading its weights; on the hub it is fetched.

    Raises:
        UserError: not to be had (a gated model says so), or no model of transformers.
    """
    from transformers import CONFIG_MAPPING, AutoConfig

    folder = _WEIGHTS / ("causal" if is_causal else "encoder") if model.base == MINIATURE else _find_folder(model)
    values = read_json(folder / CONFIG_FILE) if (folder / CONFIG_FILE).is_file() else {}
    kind = values.get("model_type") if isinstance(values, dict) else None
    if kind not in CONFIG_MAPPING:  # transformers would ask whether to run a stranger's code
        found = f"model_type {kind!r}" if values else f"no {CONFIG_FILE}"
        raise UserError(f"model.base: {model.base} is no language model of transformers ({found})")
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    if not any(folder.glob("*.safetensors")):
        raise UserError(f"model.base: {model.base} has no .safetensors weights; pickles are not read")
    return LanguageBase(name=model.base, folder=folder, config=config)


def load_tokenizer(base: LanguageBase) -> "PreTrainedTokenizerBase":
    """Returns the base's tokenizer; one without a pad token pads with its end token, which the mask hides.

    Raises:
        UserError: none there, or neither token.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(base.folder, local_files_only=True)
    except Exception as error:  # every tokenizer fails in its own way
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"model.base: the tokenizer of {base.name} cannot be read ({reason})") from None
    if tokenizer.pad_token is None:
        if tokenizer.eos_token is None:
            raise UserError(f"model.base: the tokenizer of {base.name} has neither a pad token nor an end token")
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def check_max_tokens(base: LanguageBase, max_tokens: int) -> None:
    """Raises UserError for texts longer than the model takes."""
    most = max_positions(base.config)
    if max_tokens < 8 or (most is not None and max_tokens > most):
        raise UserError(f"tuning.max_tokens: {max_tokens}; {base.name} takes 8 to {most} tokens")


def load_classifier(base: LanguageBase, *, num_labels: int, pad_token_id: int, seed: int) -> "PreTrainedModel":
    """Returns the model with a fresh classifier that depends on the seed alone; one label: regression. fp32."""
    from transformers import AutoModelForSequenceClassification

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = _load(AutoModelForSequenceClassification, base, torch.float32, num_labels=num_labels)
    model.config.pad_token_id = pad_token_id
    model.config.problem_type = "regression" if num_labels == 1 else "single_label_classification"
    return model


def load_causal(base: LanguageBase, model: LanguageModelConfig, device: torch.device) -> "PreTrainedModel":
    """Returns the model that continues text, in the settings' precision and storage."""
    from transformers import AutoModelForCausalLM

    causal = _load(AutoModelForCausalLM, base, causal_dtype(model, device))
    quantize_linears(causal.model, model.quantization)  # the output layer is kept as it is
    return causal


def shapes_only(model_config: Any, *, is_causal: bool, num_labels: int = 2) -> "PreTrainedModel":
    """Returns the model on the meta device: names and shapes, no weights."""
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    with torch.device("meta"):
        if is_causal:
            return AutoModelForCausalLM.from_config(model_config)
        config = copy.deepcopy(model_config)
        config.num_labels = num_labels
        return AutoModelForSequenceClassification.from_config(config)


def causal_dtype(model: LanguageModelConfig, device: torch.device) -> torch.dtype:
    if model.dtype != "auto":
        return _DTYPES[model.dtype]
    has_bf16 = device.type == "cuda" and torch.cuda.is_bf16_supported()
    return torch.bfloat16 if has_bf16 else torch.float32


def default_device() -> torch.device:
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def _load(kind: Any, base: LanguageBase, dtype: torch.dtype, **settings: Any) -> "PreTrainedModel":
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()  # that a classifier is fresh is meant
    logging.disable_progress_bar()  # a table loads the base once per cell
    try:
        return kind.from_pretrained(
            base.folder, torch_dtype=dtype, use_safetensors=True, local_files_only=True, **settings
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().split("\n")[0][:200]
        raise UserError(f"model.base: {base.name} cannot be loaded as {kind.__name__} ({reason})") from None
    finally:
        logging.set_verbosity(before)


def _find_folder(model: LanguageModelConfig) -> Path:
    try:
        return find_model_folder(model.base, is_offline=model.offline, revision=model.revision)
    except FileNotFoundError as error:
        hint = (
            "; a gated model needs your token: accept its licence, then `hf auth login`"
            if "Gated" in str(error)
            else ""
        )
        raise UserError(f"model.base: {model.base}: {error}{hint}") from None
