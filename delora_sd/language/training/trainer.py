"""The Trainer of transformers with our parameters: checkpoints hold what is trained, the best is kept on the way."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from delora_sd.files.tensors import read_tensors
from delora_sd.language.models.attach import Adapted
from delora_sd.language.models.files import load_state, save_state
from delora_sd.language.settings import TuningConfig
from delora_sd.language.training.optimization import count_steps, make_optimizer, make_schedule

STATE_FILE = "trained.safetensors"
BEST_FILE = "best.safetensors"
TRAINER_STATE = "trainer_state.json"
"""Written last: a checkpoint without it was cut short."""

Score = Callable[[Any], dict[str, float]]
"""(predictions and labels, as the Trainer gives them) -> {metric: value}, the deciding one first."""


class AdapterTrainer(Trainer):
    """Checkpoints hold the trained tensors, not the frozen model."""

    def __init__(self, adapted: Adapted, **settings: Any):
        self._adapted = adapted
        super().__init__(model=adapted.model, **settings)
        self.remove_callback(PrinterCallback)

    def _save(self, output_dir: str | None = None, state_dict: dict | None = None) -> None:
        save_state(self._adapted, Path(output_dir or self.args.output_dir) / STATE_FILE, {})

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        load_state(self._adapted, Path(resume_from_checkpoint) / STATE_FILE)


class KeepBest(TrainerCallback):
    """Keeps the trained tensors of the epoch whose deciding metric rose above all before it, strictly."""

    def __init__(self, adapted: Adapted, file: Path, *, decides: str, higher_is_better: bool):
        self._adapted, self._file, self._decides = adapted, file, decides
        self._sign = 1 if higher_is_better else -1
        self.best = float(read_tensors(file)[1]["value"]) if file.exists() else None

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: dict[str, float], **_: Any) -> None:
        value = metrics[f"eval_{self._decides}"]
        if self.best is None or self._sign * value > self._sign * self.best:
            self.best = value
            save_state(self._adapted, self._file, {"value": repr(value), "epoch": repr(state.epoch)})


def training_arguments(tuning: TuningConfig, folder: Path, *, seed: int, device: torch.device) -> TrainingArguments:
    """Returns the Trainer's settings: evaluate and checkpoint once per epoch, speak to nobody."""
    arguments = TrainingArguments(
        output_dir=str(folder),
        seed=seed,
        data_seed=seed,
        num_train_epochs=tuning.num_epochs,
        per_device_train_batch_size=tuning.batch_size // tuning.gradient_accumulation,
        gradient_accumulation_steps=tuning.gradient_accumulation,
        per_device_eval_batch_size=tuning.eval_batch_size,
        max_grad_norm=tuning.clip_norm,
        eval_strategy="epoch",
        save_strategy="epoch",
        save_total_limit=2,
        logging_strategy="epoch",
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=device.type != "cpu",
        use_cpu=device.type == "cpu",
    )
    arguments._n_gpu = min(1, arguments.n_gpu)  # several would be DataParallel, whose copies know no adapter
    return arguments


def fit(
    adapted: Adapted, arguments: TrainingArguments, tuning: TuningConfig, *, train: Any, validation: Any, collator: Any,
    score: Score | None, decides: str, higher_is_better: bool,
) -> AdapterTrainer:  # fmt: skip
    """Trains to the end, from the newest whole checkpoint if there is one; the model then holds the best state."""
    folder = Path(arguments.output_dir)
    if tuning.gradient_checkpointing:
        adapted.model.gradient_checkpointing_enable({"use_reentrant": False})
    optimizer = make_optimizer(adapted, tuning)
    schedule = make_schedule(optimizer, tuning, count_steps(tuning, len(train)))
    best = KeepBest(adapted, folder / BEST_FILE, decides=decides, higher_is_better=higher_is_better)
    trainer = AdapterTrainer(
        adapted,
        args=arguments,
        train_dataset=train,
        eval_dataset=validation,
        data_collator=collator,
        compute_metrics=score,
        optimizers=(optimizer, schedule),
        callbacks=[best],
    )
    trainer.train(resume_from_checkpoint=newest_checkpoint(folder))
    load_state(adapted, folder / BEST_FILE)
    return trainer


def newest_checkpoint(folder: Path) -> str | None:
    """Returns the newest whole checkpoint; the newer ones that a crash cut short are removed."""
    found = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]), reverse=True)
    for path in found:
        if _is_whole(path):
            return str(path)
        shutil.rmtree(path)
    return None


def _is_whole(checkpoint: Path) -> bool:
    try:
        json.loads((checkpoint / TRAINER_STATE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True
