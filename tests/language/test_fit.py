"""Training through the Trainer: rates, the best epoch, and going on after a kill as if nothing had been."""

import math
from dataclasses import replace

import pytest
import torch
from transformers import TrainerCallback

from delora_sd.errors import UserError
from delora_sd.language.data.glue import load_glue
from delora_sd.language.models.files import save_state
from delora_sd.language.settings import LanguageDataConfig, LanguageModelConfig, LanguageTraining, TuningConfig
from delora_sd.language.training import trainer as trainer_module
from delora_sd.language.training.optimization import count_steps, make_optimizer, make_schedule
from delora_sd.language.training.tune import check_training, tune_classifier
from delora_sd.settings import AdapterConfig


@pytest.fixture
def training(tiny_encoder):
    return LanguageTraining(
        task="rte",
        model=LanguageModelConfig(base=str(tiny_encoder)),
        data=LanguageDataConfig(glue="miniature"),
        adapter=AdapterConfig(rank=2, boundary=4.0, target_modules=()),
        tuning=TuningConfig(lr=1e-2, num_epochs=3, batch_size=16, dropout=0.1, max_tokens=48),
    )


@pytest.fixture(scope="module")
def sets():
    found = load_glue("rte", LanguageDataConfig(glue="miniature"), is_offline=True)
    return {"train": found["train"].select(range(48)), "validation": found["validation"].select(range(32))}


def accuracy(found):
    return {"accuracy": 100 * float((found.predictions.argmax(-1) == found.label_ids).mean())}


def tune(training, sets, folder, score=accuracy):
    return tune_classifier(training, sets, folder, score=score, decides="accuracy")


class Killed(Exception):
    pass


class KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_end(self, args, state, control, **_):
        if state.global_step == self.step:
            raise Killed


def test_a_killed_training_goes_on_as_if_nothing_had_been(training, sets, tmp_path, monkeypatch):
    whole = tune(training, sets, tmp_path / "whole")
    fit = trainer_module.AdapterTrainer
    monkeypatch.setattr(
        trainer_module, "AdapterTrainer", lambda *a, callbacks, **k: fit(*a, callbacks=[*callbacks, KillAt(5)], **k)
    )
    with pytest.raises(Killed):
        tune(training, sets, tmp_path / "killed")
    monkeypatch.setattr(trainer_module, "AdapterTrainer", fit)
    (tmp_path / "killed" / "checkpoint-4").mkdir()  # what a kill in the middle of writing leaves
    resumed = tune(training, sets, tmp_path / "killed")
    for (name, ours), (_, theirs) in zip(resumed.adapted.trained(), whole.adapted.trained(), strict=True):
        assert torch.equal(ours, theirs), name
    losses = [[line["loss"] for line in tuned.history if "loss" in line] for tuned in (resumed, whole)]
    assert losses[0] == losses[1] and len(losses[0]) == 3


def test_checkpoints_hold_what_is_trained_and_not_the_frozen_model(training, sets, tmp_path):
    tune(training, sets, tmp_path)
    newest = tmp_path / "checkpoint-9"
    assert (newest / "trained.safetensors").stat().st_size < 20_000
    assert not (newest / "model.safetensors").exists()


def test_the_best_epoch_is_kept_and_a_tie_keeps_the_earlier(training, sets, tmp_path, monkeypatch):
    scores, saved = iter([50.0, 70.0, 70.0]), []
    monkeypatch.setattr(
        trainer_module,
        "save_state",
        lambda adapted, file, facts: saved.append(facts) or save_state(adapted, file, facts),
    )
    tune(training, sets, tmp_path, score=lambda found: {"accuracy": next(scores)})
    assert [facts["epoch"] for facts in saved if facts] == ["1.0", "2.0"]


def test_boundary_head_and_biases_have_their_own_rates_and_decay(training, sets, tmp_path):
    adapted = tune(training, sets, tmp_path).adapted
    tuning = TuningConfig(lr=3e-2, boundary_lr=1e-2, weight_decay=0.01)
    groups = make_optimizer(adapted, tuning).param_groups
    names = {id(parameter): name for name, parameter in adapted.trained()}
    found = {
        names[id(parameter)].rpartition(".")[2]: (group["lr"], group["weight_decay"])
        for group in groups
        for parameter in group["params"]
    }
    assert found == {
        "A": (3e-2, 0.01), "B": (3e-2, 0.01), "boundary": (1e-2, 0.01), "weight": (3e-2, 0.01), "bias": (3e-2, 0.0),
    }  # fmt: skip
    assert sum(len(group["params"]) for group in groups) == len(names)


def test_the_rate_rises_over_six_percent_and_falls_to_zero():
    tuning = TuningConfig(num_epochs=10, batch_size=32)
    num_steps = count_steps(tuning, 2490)
    assert num_steps == 10 * 78
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule, rates = make_schedule(optimizer, tuning, num_steps), []
    for _ in range(num_steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    warmup = math.ceil(0.06 * num_steps)
    assert rates[0] == 0 and rates.index(max(rates)) == warmup and max(rates) == 1.0
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-9)
    assert rates[warmup + 100] == pytest.approx(1 - 100 / (num_steps - warmup))


@pytest.mark.parametrize(
    ("tuning", "message"),
    [
        ({"max_tokens": 500}, r"tuning.max_tokens: 500"),
        ({"gradient_accumulation": 3}, r"gradient_accumulation: 3 does not divide"),
        ({"num_epochs": 0.0}, r"num_epochs: 0.0"),
        ({"eval_batch_size": 0}, r"eval_batch_size: 0; expected at least 1"),
    ],
)
def test_settings_that_cannot_work_are_refused_before_weights_load(training, tuning, message):
    with pytest.raises(UserError, match=message):
        check_training(replace(training, tuning=replace(training.tuning, **tuning)))


def test_a_quantised_classifier_is_refused(training):
    with pytest.raises(UserError, match=r"GLUE runs in fp32 and unquantised"):
        check_training(replace(training, model=replace(training.model, quantization="int8")))
