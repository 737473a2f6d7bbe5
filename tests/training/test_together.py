"""`delora-sd pack` trains runs that lie in folders, and `delora-sd estimate` says what a step takes."""

import json
from pathlib import Path

import pytest

from delora_sd.cli.main import main
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.training.estimate import PACK, Estimate, describe_estimate
from delora_sd.training.settings import PackConfig
from delora_sd.training.together import train_together


@pytest.fixture
def plan(tiny_sd: Path, photo_folder: Path, tmp_path: Path, capsys):
    """Writes the config.yaml of a run that has not begun."""

    def write(name: str, *changed: str) -> RunFolder:
        run = RunFolder(tmp_path / "runs" / name)
        words = [
            f"model.base={tiny_sd}",
            f"data.photos={photo_folder}",
            "data.class_word=dog",
            f"output_dir={run.path}",
        ]
        words += ["adapter.method=lora", "adapter.rank=2", "training.prior_weight=0", "training.num_steps=2"]
        words += ["training.export_check=tensors"]
        assert main(["train", *words, *changed, "--dry-run"]) == 0
        run.path.mkdir(parents=True)
        run.config.write_text(capsys.readouterr().out)
        return run

    return write


def test_planned_runs_train_together_wherever_their_folder_lies_now_and_again_is_nothing(plan, tmp_path, capsys):
    one, two = plan("one"), plan("two", "seed=1")
    moved = RunFolder(tmp_path / "moved")
    two.path.rename(moved.path)
    assert main(["pack", str(one.path), str(moved.path)]) == 0
    assert one.is_trained_to(2) and moved.is_trained_to(2) and not two.path.exists()
    assert one.read_manifest()["pack"] == 2
    assert [result.is_new for result in train_together(PackConfig(runs=(str(one.path), str(moved.path))))] == [
        False
    ] * 2


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (("adapter.rank=4",), "adapter.rank: .* cannot share a pack"),
        (("adapter.method=oft", "adapter.num_blocks=2"), "cannot share a pack"),
        (None, "has no config.yaml"),
    ],
)
def test_runs_that_cannot_train_together_are_refused_before_anything_loads(plan, tmp_path, changed, said):
    one = plan("one")
    other = tmp_path / "nothing" if changed is None else plan("other", *changed).path
    with pytest.raises(UserError, match=said):
        train_together(PackConfig(runs=(str(one.path), str(other))))
    with pytest.raises(UserError, match="runs: missing"):
        train_together(PackConfig())
    assert not one.manifest.exists()


def test_a_step_is_timed_alone_and_in_a_pack_and_its_memory_is_counted(tiny_sd, tmp_path, capsys):
    words = [f"model.base={tiny_sd}", "adapter.method=lora", "adapter.rank=2", "training.prior_weight=0"]
    assert main(["estimate", *words, f"output={tmp_path / 'cost.json'}"]) == 0
    assert "s per step" in capsys.readouterr().out
    found = json.loads((tmp_path / "cost.json").read_text())
    assert found["step_seconds"] > 0 and found["more_seconds"] >= 0
    assert found["free_bytes"] > found["fixed_bytes"] > 0 and found["bytes_per_adapter"] > 0


def test_the_figures_are_said_for_a_whole_training():
    found = Estimate(
        device="a CPU", step_seconds=0.6, more_seconds=0.1, fixed_bytes=1e9, bytes_per_adapter=5e8, free_bytes=4e9
    )
    said = describe_estimate(found, 1000)
    assert "10.0 min for 1000 steps" in said and "1.50 GB, 4.00 GB are free" in said
    assert f"{PACK} adapters in one pack: 15.0 min instead of 40.0" in said
