"""The whole training, on the tiny model: what is written, how it resumes, what is refused."""

import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from delora_sd.adapters.exchange.stored.formats import load_adapter
from delora_sd.config.load import to_yaml
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, read_json, read_lines
from delora_sd.settings import (
    AdapterConfig,
    DataConfig,
    ModelConfig,
    OptimizerConfig,
    PreviewConfig,
    TrainConfig,
    TrainingConfig,
)
from delora_sd.signals import Stopped
from delora_sd.training import recipe
from delora_sd.training.record import reporter
from delora_sd.training.record.checkpoints import OPTIMIZER_FILE, last_common_step
from delora_sd.training.record.reporter import Reporter

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Class images of this module go to one temporary cache."""
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


@pytest.fixture
def config(tiny_sd: Path, photo_folder: Path, tmp_path: Path) -> TrainConfig:
    return TrainConfig(
        output_dir=str(tmp_path / "run"),
        model=ModelConfig(base=str(tiny_sd), offline=True),
        data=DataConfig(photos=str(photo_folder), class_word="dog"),
        adapter=AdapterConfig(rank=2, init="mirrored"),
        training=TrainingConfig(
            num_steps=6, num_class_images=2, checkpoint_every=2, log_every=1, batch_size=2, export_check="tensors"
        ),
    )


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[TrainConfig], TrainConfig]:
    """Returns a function that trains the same settings in a folder of its own, once for all tests of this module."""
    trained: dict[str, TrainConfig] = {}

    def train(config: TrainConfig) -> TrainConfig:
        settings = to_yaml(replace(config, output_dir=""))
        if settings not in trained:
            trained[settings] = replace(config, output_dir=str(tmp_path_factory.mktemp("undisturbed") / "run"))
            recipe.train(trained[settings])
        return trained[settings]

    return train


def with_training(config: TrainConfig, **changes) -> TrainConfig:
    return replace(config, training=replace(config.training, **changes))


def adapter_tensors(run: RunFolder) -> dict[str, torch.Tensor]:
    return load_file(run.adapter / "adapter_model.safetensors")


STEADY = OptimizerConfig(lr=0.5, boundary_lr=0.5, eps=1.0)
"""AdamW with eps = 1 steps in proportion to the gradient: rounding is not blown up where a gradient is all but zero."""


def assert_same_training(ours: TrainConfig, theirs: TrainConfig) -> None:
    """Up to 2000 times the rounding of float32: no sum in the tiny UNet's gradients has more terms."""
    one, other = (adapter_tensors(RunFolder(Path(config.output_dir))) for config in (ours, theirs))
    early = load_file(RunFolder(Path(theirs.output_dir)).checkpoint(2) / "adapter" / "adapter_model.safetensors")
    way = max((other[key] - early[key]).abs().max().item() for key in other)
    largest = max(value.abs().max().item() for value in other.values())
    assert way > 1e-3
    for key in other:
        atol = (2000 * way + 10 * largest) * torch.finfo(torch.float32).eps
        torch.testing.assert_close(one[key], other[key], rtol=0, atol=atol)


def crash_after(monkeypatch: pytest.MonkeyPatch, step: int) -> None:
    """Kills the loop right after the given step, past the point where everything of the step was written."""
    finish_step = Reporter.after_step

    def after_step(self, report):
        finish_step(self, report)
        if report.step == step:
            raise RuntimeError("power cut")

    monkeypatch.setattr(Reporter, "after_step", after_step)


def test_run_folder_holds_everything_it_promises(config: TrainConfig):
    config = replace(config, preview=PreviewConfig(every=3, num_inference_steps=2))
    recipe.train(config)
    run = RunFolder(Path(config.output_dir))
    assert run.config.read_text() == to_yaml(config)
    manifest = read_json(run.manifest)
    assert manifest["finished_step"] == 6 and manifest["base"]["random_weights"]
    assert manifest["trainable_parameters"] == load_adapter(run.adapter).num_parameters()
    assert run.checkpoint_steps() == [2, 4, 6]
    assert len(list(run.previews.glob("*.png"))) == 2 * len(config.preview.prompts)
    assert len(list(run.export.glob("*.safetensors"))) == 2
    steps = [event for event in read_lines(run.events) if "loss" in event]
    assert [event["step"] for event in steps] == [1, 2, 3, 4, 5, 6]
    assert all(math.isfinite(event["loss"]) and event["lr"] == 2e-2 for event in steps)


@pytest.mark.parametrize("init", ["mirrored", "frozen_copy"])
@pytest.mark.parametrize("crash", [3, 4])
def test_resumed_run_is_bit_equal_to_an_undisturbed_one(
    config: TrainConfig, undisturbed: Callable, monkeypatch: pytest.MonkeyPatch, crash: int, init: str
):
    config = replace(config, adapter=replace(config.adapter, init=init))
    whole = undisturbed(config)
    with monkeypatch.context() as patch:
        crash_after(patch, crash)
        with pytest.raises(RuntimeError, match="power cut"):
            recipe.train(config)
    recipe.train(config)
    files = sorted(p.relative_to(whole.output_dir) for p in Path(whole.output_dir).glob("adapter/**/*.*"))
    assert files
    for file in files:
        assert (Path(config.output_dir) / file).read_bytes() == (Path(whole.output_dir) / file).read_bytes()
    losses = [
        [e["loss"] for e in read_lines(RunFolder(Path(c.output_dir)).events) if "loss" in e] for c in (config, whole)
    ]
    assert losses[0] == losses[1]


def test_longer_training_goes_on_from_where_the_shorter_one_ended(config: TrainConfig, undisturbed: Callable):
    recipe.train(with_training(config, num_steps=4))
    recipe.train(config)
    ours, theirs = (adapter_tensors(RunFolder(Path(c.output_dir))) for c in (config, undisturbed(config)))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_finished_run_is_left_alone(config: TrainConfig, undisturbed: Callable, monkeypatch: pytest.MonkeyPatch):
    config = undisturbed(config)
    before = {file: file.stat().st_mtime_ns for file in Path(config.output_dir).rglob("*") if file.is_file()}
    monkeypatch.setattr(recipe, "_train_unfinished", pytest.fail)
    recipe.train(config)
    assert before == {file: file.stat().st_mtime_ns for file in Path(config.output_dir).rglob("*") if file.is_file()}


def test_changed_settings_are_refused_on_resume(config: TrainConfig, undisturbed: Callable):
    config = undisturbed(config)
    with pytest.raises(UserError, match=r"begun with adapter.rank=2, now it is 1"):
        recipe.train(replace(config, adapter=replace(config.adapter, rank=1, init="zero_up")))


def test_run_folder_of_another_version_is_refused(config: TrainConfig):
    run = RunFolder(Path(config.output_dir))
    run.path.mkdir()
    run.manifest.write_text(json.dumps({"format": 99}))
    with pytest.raises(UserError, match="format 99"):
        recipe.train(config)


def test_pack_writes_the_same_files_as_single_runs(config: TrainConfig, undisturbed: Callable, tmp_path: Path):
    config = replace(config, optimizer=STEADY)
    pack = [replace(config, seed=seed, output_dir=str(tmp_path / f"pack-{seed}")) for seed in (0, 1)]
    assert all(result.failure is None for result in recipe.train_pack(pack))
    for each in pack:
        assert_same_training(each, undisturbed(each))


def test_pack_goes_on_with_its_unfinished_runs(config: TrainConfig, undisturbed: Callable):
    first, second = undisturbed(config), replace(config, seed=1)
    results = recipe.train_pack([first, second])
    assert [result.step for result in results] == [6, 6]


def test_pack_killed_between_two_checkpoints_resumes_from_the_last_common_one(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    config = with_training(config, keep_checkpoints=1)
    configs = [replace(config, seed=seed, output_dir=str(tmp_path / f"run-{seed}")) for seed in (0, 1)]
    runs = [RunFolder(Path(each.output_dir)) for each in configs]
    save = reporter.save_checkpoint

    def save_all_but_one(run, step, *arguments, **keywords):
        if run.path == runs[1].path and step == 4:
            raise RuntimeError("power cut")
        save(run, step, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(reporter, "save_checkpoint", save_all_but_one)
        with pytest.raises(RuntimeError, match="power cut"):
            recipe.train_pack(configs)
    assert [run.checkpoint_steps() for run in runs] == [[2, 4], [2]]
    assert last_common_step(runs) == 2
    recipe.train_pack(configs)
    states = [[step for step in (2, 4, 6) if (run.checkpoint(step) / OPTIMIZER_FILE).exists()] for run in runs]
    assert states == [[6], [6]]


def test_runs_that_cannot_share_a_pack_name_the_setting(config: TrainConfig, tmp_path: Path):
    other = replace(config, output_dir=str(tmp_path / "other"), adapter=replace(config.adapter, rank=4))
    with pytest.raises(UserError, match=r"adapter.rank: 2 and 4 cannot share a pack"):
        recipe.train_pack([config, other])


def test_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(
    config: TrainConfig, monkeypatch: pytest.MonkeyPatch
):
    finish_step = Reporter.after_step

    def spoil(self, report):
        finish_step(self, report)
        if report.step == 3:
            next(self.pack.adapters[0].parameters()).data.fill_(math.nan)

    monkeypatch.setattr(Reporter, "after_step", spoil)
    with pytest.raises(UserError, match="not finite at step 4"):
        recipe.train(config)
    run = RunFolder(Path(config.output_dir))
    assert run.checkpoint_steps() == [2] and not run.is_finished()


def test_stop_signal_writes_a_checkpoint_and_the_same_command_goes_on(
    config: TrainConfig, undisturbed: Callable, monkeypatch: pytest.MonkeyPatch
):
    finish_step = Reporter.after_step

    def stop(self, report):
        if report.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        finish_step(self, report)

    with monkeypatch.context() as patch:
        patch.setattr(Reporter, "after_step", stop)
        with pytest.raises(Stopped, match="run, step 3: stopped") as stop:
            recipe.train(config)
    assert stop.value.exit_code == 143
    recipe.train(config)
    ours, theirs = (adapter_tensors(RunFolder(Path(c.output_dir))) for c in (config, undisturbed(config)))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def run_door(config: TrainConfig, launcher: list[str], tmp_path: Path) -> str:
    """Trains in a process of its own and returns what it said to a person."""
    settings = tmp_path / f"{Path(config.output_dir).name}.yaml"
    settings.write_text(to_yaml(config))
    command = [*launcher, str(ROOT / "train_dreambooth_delora.py"), str(settings)]
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"}, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def test_two_processes_train_the_same_adapter_as_one(config: TrainConfig, undisturbed: Callable, tmp_path: Path):
    config = replace(config, optimizer=STEADY)
    together = replace(config, output_dir=str(tmp_path / "two"))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "--master_port", "0"]
    run_door(together, [*torchrun, "--rdzv_backend", "c10d", "--rdzv_endpoint", "localhost:0"], tmp_path)
    assert_same_training(together, undisturbed(config))


def test_accelerate_launch_with_a_saved_config_trains_the_same_adapter_and_other_packages_are_silent(
    config: TrainConfig, undisturbed: Callable, tmp_path: Path
):
    launched = replace(config, output_dir=str(tmp_path / "launched"))
    saved = tmp_path / "accelerate.yaml"
    saved.write_text(
        "compute_environment: LOCAL_MACHINE\ndistributed_type: 'NO'\nmixed_precision: 'no'\n"
        "num_machines: 1\nnum_processes: 1\nuse_cpu: true\n"
    )
    accelerate = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(saved)]
    said = run_door(launched, accelerate, tmp_path)
    ours = re.compile(r"(launched|class images 'a photo of dog'): \d/\d (steps|images), .*")
    assert [line for line in said.splitlines() if not ours.fullmatch(line)] == []  # the libraries say nothing
    ours, theirs = (adapter_tensors(RunFolder(Path(c.output_dir))) for c in (launched, undisturbed(config)))
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_held_out_photos_leave_no_trace_in_the_adapter(config: TrainConfig, tmp_path: Path):
    """A run that holds a photo out equals one that never had it, also beside a run that trains on all."""
    divided = replace(config, output_dir=str(tmp_path / "divided"), data=replace(config.data, hold_out=1))
    recipe.train_pack([divided, replace(config, output_dir=str(tmp_path / "all"))])
    manifest = read_json(RunFolder(tmp_path / "divided").manifest)
    assert len(manifest["held_out"]) == 1 and len(manifest["photos"]) == 3
    assert not manifest["held_out"].keys() & manifest["photos"].keys()
    photos = tmp_path / Path(config.data.photos).name
    photos.mkdir()
    for name in manifest["photos"]:
        shutil.copy(Path(config.data.photos) / name, photos / name)
    fewer = replace(config, output_dir=str(tmp_path / "fewer"), data=replace(config.data, photos=str(photos)))
    recipe.train_pack([fewer, replace(fewer, output_dir=str(tmp_path / "twin"))])
    ours, theirs, whole = (adapter_tensors(RunFolder(tmp_path / name)) for name in ("divided", "fewer", "all"))
    for name, tensor in ours.items():
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-5)
    assert any(not torch.allclose(tensor, whole[name], atol=1e-3) for name, tensor in ours.items())


def test_another_number_of_held_out_photos_is_another_run(config: TrainConfig, undisturbed: Callable):
    with pytest.raises(UserError, match=r"data\.hold_out=0, now it is 1"):
        recipe.train(replace(undisturbed(config), data=replace(config.data, hold_out=1)))
