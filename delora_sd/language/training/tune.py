"""One fine-tuning from its settings to its best state: the story, top to bottom."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from delora_sd.adapters.attach import check_known
from delora_sd.errors import UserError
from delora_sd.language.data.glue import encode_glue
from delora_sd.language.data.instructions import collate, encode_record, load_instructions
from delora_sd.language.data.tasks import TASKS
from delora_sd.language.models.attach import Adapted, attach_language
from delora_sd.language.models.bases import (
    LanguageBase,
    check_max_tokens,
    default_device,
    find_language_base,
    load_causal,
    load_classifier,
    load_tokenizer,
)
from delora_sd.language.models.families import target_names
from delora_sd.language.settings import LanguageTraining
from delora_sd.language.training.trainer import Score, fit, training_arguments


@dataclass(frozen=True, kw_only=True)
class Tuned:
    """A finished fine-tuning: the model with the best epoch's state, and what was seen on the way."""

    adapted: Adapted
    base: LanguageBase
    tokenizer: Any
    history: list[dict[str, float]]
    """What the Trainer logged, once per epoch."""
    num_parameters: int
    """Of the adapter alone; the head's are not counted, as in the paper."""
    predict: Callable[[Any], tuple[Any, Any]]
    """Encoded examples -> (predictions, labels)."""


def check_training(training: LanguageTraining) -> LanguageBase:
    """Returns the base. Raises UserError for whatever can be known to fail before weights are loaded."""
    tuning = training.tuning
    is_causal = training.task not in TASKS
    base = find_language_base(training.model, is_causal=is_causal)
    check_known(replace(training.adapter, target_modules=target_names(base.config, training.adapter.target_modules)))
    check_max_tokens(base, tuning.max_tokens)
    for key in ("batch_size", "gradient_accumulation", "eval_batch_size"):
        if getattr(tuning, key) < 1:
            raise UserError(f"tuning.{key}: {getattr(tuning, key)}; expected at least 1")
    if tuning.batch_size % tuning.gradient_accumulation:
        raise UserError(
            f"tuning.gradient_accumulation: {tuning.gradient_accumulation} does not divide the batch of "
            f"{tuning.batch_size}"
        )
    if not tuning.num_epochs > 0:
        raise UserError(f"tuning.num_epochs: {tuning.num_epochs}; expected more than 0")
    if not is_causal and (training.model.quantization != "none" or training.model.dtype == "bf16"):
        raise UserError("model: GLUE runs in fp32 and unquantised, as the authors'; use dtype=auto, quantization=none")
    return base


def tune_classifier(
    training: LanguageTraining, sets: dict[str, Any], folder: Path, *, score: Score, decides: str
) -> Tuned:
    """Fine-tunes on sets {train, validation} of a GLUE task and keeps the epoch that scores best on validation."""
    base, facts, device = check_training(training), TASKS[training.task], default_device()
    tokenizer = load_tokenizer(base)
    model = load_classifier(
        base, num_labels=facts.num_labels, pad_token_id=tokenizer.pad_token_id, seed=training.seed
    ).to(device)
    adapted = _attach(training, model)
    encode = partial(encode_glue, task=training.task, tokenizer=tokenizer, max_tokens=training.tuning.max_tokens)
    trainer = fit(
        adapted,
        training_arguments(training.tuning, folder, seed=training.seed, device=device),
        training.tuning,
        train=encode(sets["train"]),
        validation=encode(sets["validation"]),
        collator=_padding(tokenizer),
        score=score,
        decides=decides,
        higher_is_better=True,
    )
    return _tuned(adapted, base, tokenizer, trainer, encode)


def tune_causal(training: LanguageTraining, folder: Path) -> Tuned:
    """Fine-tunes on instructions and keeps the epoch with the lowest loss on the held-out records."""
    base, device, tuning = check_training(training), default_device(), training.tuning
    records = load_instructions(training.data, is_offline=training.model.offline)
    tokenizer = load_tokenizer(base)
    model = load_causal(base, training.model, device).to(device)
    adapted = _attach(training, model)
    encode = partial(encode_record, tokenizer=tokenizer, max_tokens=tuning.max_tokens, loss_on=training.data.loss_on)
    trainer = fit(
        adapted,
        training_arguments(tuning, folder, seed=training.seed, device=device),
        tuning,
        train=[encode(record) for record in records["train"]],
        validation=[encode(record) for record in records["held_out"]],
        collator=partial(collate, pad_token_id=tokenizer.pad_token_id),
        score=None,
        decides="loss",
        higher_is_better=False,
    )
    return _tuned(adapted, base, tokenizer, trainer, lambda rows: [encode(row) for row in rows])


def _attach(training: LanguageTraining, model: torch.nn.Module) -> Adapted:
    return attach_language(model, training.adapter, seed=training.seed, dropout=training.tuning.dropout)


def _padding(tokenizer: Any) -> Any:
    from transformers import DataCollatorWithPadding

    return DataCollatorWithPadding(tokenizer)


def _tuned(adapted: Adapted, base: LanguageBase, tokenizer: Any, trainer: Any, encode: Callable[[Any], Any]) -> Tuned:
    def predict(examples: Any) -> tuple[Any, Any]:
        found = trainer.predict(encode(examples))
        return found.predictions, found.label_ids

    return Tuned(
        adapted=adapted,
        base=base,
        tokenizer=tokenizer,
        history=trainer.state.log_history,
        num_parameters=adapted.pack.adapters[0].num_parameters(),
        predict=predict,
    )
