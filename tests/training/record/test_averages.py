"""Averages of an adapter: equal to a plain reading on tensors, resumed bit for bit, never in the way of training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from delora_eval.scoring.inputs.image_sets import read_run_sets
from delora_sd.adapters.exchange.export.average import WIDEST, average_checkpoints, exponent_of, profile_weights
from delora_sd.adapters.exchange.settings import AverageConfig
from delora_sd.adapters.exchange.stored.formats import load_adapter
from delora_sd.adapters.lowrank.adapter import Adapter, create_adapter, layer_factors
from delora_sd.adapters.lowrank.factors import dense_update
from delora_sd.adapters.lowrank.methods import METHODS
from delora_sd.cli.main import main
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import (
    AdapterConfig,
    DataConfig,
    EmaConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
    TrainingConfig,
)
from delora_sd.training import recipe
from delora_sd.training.loop.ema import Ema, check_ema
from delora_sd.training.record.reporter import Reporter

WEIGHT = torch.randn(12, 10, generator=torch.Generator().manual_seed(0))
EPS = torch.finfo(torch.float32).eps


def make_adapter(method: str) -> Adapter:
    return create_adapter(AdapterConfig(method=method, rank=4, boundary=2.0), {"to_q": WEIGHT}, seed=1)


def training(adapter: Adapter, num_steps: int):
    """Moves every parameter at random, step by step; yields the step and the parameters by name."""
    generator = torch.Generator().manual_seed(2)
    for step in range(1, num_steps + 1):
        for _, parameter in adapter.parameters_by_name():
            parameter.data += 0.3 * torch.randn(parameter.shape, generator=generator)
        yield step, {name: value.detach()[0].double().clone() for name, value in adapter.parameters_by_name()}


def unit(method: str, name: str, value: Tensor) -> Tensor:
    """What is averaged, read from the formulas: rows a_i and columns b_i of DeLoRA divided by their length."""
    if name not in METHODS[method].directions:
        return value
    return value / value.norm(dim=0 if (method, name) == ("delora", "B") else 1, keepdim=True)


def saved(ema: Ema, folder: Path) -> dict[str, Tensor]:
    ema.save(folder, base="nobody/nothing")
    return load_adapter(folder).layer_tensors()["to_q"]


@pytest.mark.parametrize("warmup", [False, True])
@pytest.mark.parametrize("method", ["delora", "lora", "dora", "ether_plus_one_sided"])
def test_the_average_is_the_plain_one_with_directions_at_length_one(method: str, warmup: bool, tmp_path: Path):
    adapter = make_adapter(method)
    start = {name: value.detach()[0].double().clone() for name, value in adapter.parameters_by_name()}
    expected = {name: unit(method, name, value).nan_to_num() for name, value in start.items()}
    ema = Ema(adapter, EmaConfig(decay=0.8, warmup=warmup))
    for step, values in training(adapter, 12):
        ema.update(step)
        decay = min(0.8, (1 + step) / (10 + step)) if warmup else 0.8
        for name, value in values.items():
            expected[name] = decay * expected[name] + (1 - decay) * unit(method, name, value)
    found = saved(ema, tmp_path / "ema")
    for name, value in expected.items():
        torch.testing.assert_close(found[name].double(), value, rtol=0, atol=64 * EPS * value.abs().max().item())
    assert all(torch.equal(value[0], last.float()) for (_, value), last in zip(
        adapter.parameters_by_name(), values.values(), strict=True
    )), "the adapter in training is as it was"  # fmt: skip


def test_the_length_of_a_direction_never_weighs(tmp_path: Path):
    """Averaged as they are, long vectors would win; at length one, a and 100 a are the same."""
    updates = []
    for factor in (1.0, 100.0):
        adapter = make_adapter("delora")
        ema = Ema(adapter, EmaConfig(decay=0.5, warmup=False))
        for step, _ in training(adapter, 3):
            kept = {name: value.detach().clone() for name, value in adapter.parameters_by_name()}
            if step == 2:
                for name, value in adapter.parameters_by_name():
                    value.data *= factor if name in ("A", "B") else 1.0
            ema.update(step)
            for name, value in adapter.parameters_by_name():
                value.data.copy_(kept[name])
        tensors = saved(ema, tmp_path / f"{factor:g}")
        updates.append(dense_update(layer_factors(adapter.config, adapter.specs()["to_q"], tensors, WEIGHT), WEIGHT))
    torch.testing.assert_close(updates[0], updates[1], rtol=0, atol=64 * EPS * updates[0].abs().max().item())


def test_weights_of_checkpoints_at_every_step_are_the_power_function_average():
    """The recurrence of Karras et al. 2024, Sec. 3.1: a <- b a + (1 - b) value with b = (1 - 1/t)^(gamma + 1)."""
    exponent = 6.94
    values, average = torch.rand(20, generator=torch.Generator().manual_seed(3), dtype=torch.float64), 0.0
    for step in range(1, 21):
        share = (1 - 1 / step) ** (exponent + 1)
        average = share * average + (1 - share) * values[step - 1].item()
    weights = profile_weights(range(1, 21), exponent)
    assert sum(weights) == pytest.approx(1) and (torch.tensor(weights).double() @ values).item() == pytest.approx(
        average
    )
    assert profile_weights([100, 200, 400], 0.0) == pytest.approx([0.25, 0.25, 0.5]), "each for the steps before it"


@pytest.mark.parametrize("width", [0.02, 0.05, 0.1, 0.2, WIDEST])
def test_the_width_is_the_standard_deviation_of_the_profile(width: float):
    exponent = exponent_of(width)
    places = torch.linspace(0, 1, 200_001, dtype=torch.float64)
    density = places**exponent / (places**exponent).sum()
    mean = (density * places).sum()
    assert (density * (places - mean) ** 2).sum().sqrt().item() == pytest.approx(width, rel=1e-3)


def make_config(folder: Path, base: Path, photos: Path, **training) -> TrainConfig:
    steps = TrainingConfig(num_steps=4, prior_weight=0.0, checkpoint_every=1)
    return TrainConfig(
        output_dir=str(folder),
        model=ModelConfig(base=str(base), offline=True),
        data=DataConfig(photos=str(photos), class_word="dog"),
        adapter=AdapterConfig(rank=2, init="mirrored"),
        optimizer=OptimizerConfig(lr=0.1),
        training=replace(steps, **training),
    )


@pytest.fixture(scope="module")
def averaged(tiny_sd: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    """Trained with an average, in one go."""
    folder = tmp_path_factory.mktemp("averaged") / "rex"
    config = make_config(folder, tiny_sd, photo_folder, ema=EmaConfig(decay=0.6, warmup=False))
    recipe.train(config)
    return config


def adapter_bytes(folder: Path) -> bytes:
    return (folder / "adapter_model.safetensors").read_bytes()


def test_an_average_is_resumed_bit_for_bit_and_what_is_trained_does_not_know_of_it(
    averaged: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole, stopped = RunFolder(Path(averaged.output_dir)), RunFolder(tmp_path / "rex")
    config = replace(averaged, output_dir=str(stopped.path), training=replace(averaged.training, checkpoint_every=2))
    finish_step = Reporter.after_step

    def crash_after_three(self, report):
        finish_step(self, report)
        if report.step == 3:
            raise RuntimeError("power cut")

    monkeypatch.setattr(Reporter, "after_step", crash_after_three)
    with pytest.raises(RuntimeError, match="power cut"):
        recipe.train(config)
    monkeypatch.undo()
    recipe.train(config)
    assert adapter_bytes(stopped.averages / "ema") == adapter_bytes(whole.averages / "ema")
    assert adapter_bytes(stopped.adapter) == adapter_bytes(whole.adapter) != adapter_bytes(whole.averages / "ema")
    without = replace(config, output_dir=str(tmp_path / "plain"), training=replace(config.training, ema=EmaConfig()))
    recipe.train(without)
    assert adapter_bytes(RunFolder(tmp_path / "plain").adapter) == adapter_bytes(whole.adapter)
    assert not RunFolder(tmp_path / "plain").averages.exists()
    with pytest.raises(UserError, match=r"was begun with training.ema.decay=0.6, now it is 0.0"):
        recipe.train(replace(without, output_dir=averaged.output_dir))


def test_the_saved_average_is_that_of_its_checkpoints(averaged: TrainConfig):
    run = RunFolder(Path(averaged.output_dir))
    adapters = [load_adapter(run.checkpoint(step) / "adapter").layer_tensors() for step in range(1, 5)]
    found, first = load_adapter(run.averages / "ema").layer_tensors(), load_adapter(run.checkpoint(1) / "ema")
    for layer, tensors in found.items():
        for name in ("A", "B", "boundary"):
            expected = first.layer_tensors()[layer][name].double()
            for step in (1, 2, 3):
                value = adapters[step][layer][name].double()
                expected = 0.6 * expected + 0.4 * unit("delora", name, value)
            torch.testing.assert_close(tensors[name].double(), expected, rtol=0, atol=1e-6)


def test_an_average_made_afterwards_is_the_weighted_mean_of_the_checkpoints(averaged: TrainConfig):
    run = RunFolder(Path(averaged.output_dir))
    folder, weights = average_checkpoints(AverageConfig(run=averaged.output_dir, width=0.2, name="wide"))
    assert folder == run.averages / "wide" and list(weights) == [1, 2, 3, 4] and sum(weights.values()) == 1
    found = load_adapter(folder).layer_tensors()
    adapters = {step: load_adapter(run.checkpoint(step) / "adapter").layer_tensors() for step in weights}
    for layer, tensors in found.items():
        for name in ("A", "B", "boundary"):
            expected = sum(
                weight * unit("delora", name, adapters[step][layer][name].double()) for step, weight in weights.items()
            )
            torch.testing.assert_close(tensors[name].double(), expected, rtol=0, atol=1e-6)
    early, shares = average_checkpoints(AverageConfig(run=averaged.output_dir, until=2))
    assert early.name == "post-hoc-0.1-step000002" and list(shares) == [1, 2]


def test_images_scores_and_exports_name_the_average_they_are_of(averaged: TrainConfig, capsys):
    run = RunFolder(Path(averaged.output_dir))
    for words in (["average=ema"], ["average=ema", "step=2"], []):
        draw = ["generate", str(run.path), "prompts=a {identifier} {class_word}", "num_inference_steps=1"]
        assert main([*draw, "images_per_prompt=1", *words]) == 0
    sets = {each.name.rpartition("-")[0]: each for each in read_run_sets(run, subject="dog", identifier="qwe")}
    assert set(sets) == {"ema", "ema-step-000002", "final"}
    assert sets["ema"].average == "ema" and sets["final"].average is None and sets["ema-step-000002"].step == 2
    assert [each.name for each in read_run_sets(run, subject="", identifier="qwe", names=["ema"])] == [sets["ema"].name]
    assert main(["export", str(run.path), "average=ema"]) == 0
    ours, raw = (load_file(run.export / f"rex{name}.kohya.safetensors") for name in ("-ema", ""))
    assert ours.keys() == raw.keys() and any(not torch.equal(ours[key], raw[key]) for key in ours)
    assert main(["generate", str(run.path), "average=emma"]) == 2
    assert "it has: ema" in capsys.readouterr().err
    with pytest.raises(UserError, match=r"sets=emma: no such image set"):
        read_run_sets(run, subject="", identifier="qwe", names=["emma"])


def test_averages_that_cannot_be_are_refused(averaged: TrainConfig, finished_run: Path, tmp_path: Path):
    for changes, message in (
        ({"run": ""}, "run: missing"),
        ({"run": str(tmp_path)}, "no run folder there"),
        ({"width": 0.0}, "width: 0.0; expected above 0 to 0.289"),
        ({"width": 0.3}, "width: 0.3"),
        ({"until": 9}, "no such checkpoint; it has: 1, 2, 3, 4"),
        ({"until": 1}, "at least two"),
        ({"name": "ema"}, "name: 'ema'"),
        ({"name": "../x"}, "name: '../x'"),
    ):
        with pytest.raises(UserError, match=message):
            average_checkpoints(replace(AverageConfig(run=averaged.output_dir), **changes))
    for decay in (-0.1, 1.0, float("nan")):
        with pytest.raises(UserError, match=r"training.ema.decay"):
            check_ema(EmaConfig(decay=decay))
