import errno
import json
import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from delora_eval.benchmark import grid
from delora_eval.benchmark.folder import cell_state, load_benchmark, open_folder, read_outcome, read_plan
from delora_eval.benchmark.run.cell.packs import make_packs
from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_eval.benchmark.run.workers.runner import parse_shard, run_phases, share_cells
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.config.load import load_config
from delora_sd.errors import DiskError, UserError
from delora_sd.settings import TrainConfig
from delora_sd.signals import Stopped, stopping_at_once

from ..fakes import Failures, dino_of, fake_stages, trainings


def run(config: BenchmarkConfig, failures: Failures | None = None):
    return run_phases(config, fake_stages(config, failures), share_cells(0, 1))


def states(config: BenchmarkConfig) -> dict[str, str]:
    folder = open_folder(config)
    return {cell.id: cell_state(folder, config, cell) for cell in read_plan(folder)["test"]}


def snapshot(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in sorted(folder.rglob("*"))}


def test_every_cell_is_trained_once_and_finished(make_config):
    config = make_config()
    folder = run(config)
    assert set(states(config).values()) == {"finished"}
    assert len(trainings(folder.path)) == 8 == len(set(trainings(folder.path)))


def test_second_call_changes_no_file(make_config):
    folder = run(make_config())
    before = snapshot(folder.path / "cells")
    run(make_config())
    assert snapshot(folder.path / "cells") == before


def test_grid_may_grow(make_config):
    folder = run(make_config(seeds=[0]))
    run(make_config(seeds=[0, 1], methods={"lora": {}, "delora": {}, "dora": {}}))
    assert len(trainings(folder.path)) == 12 == len(set(trainings(folder.path)))


def test_new_scored_steps_do_not_train_again(make_config):
    folder = run(make_config())
    config = make_config(steps=[20, 40])
    run(config)
    assert len(trainings(folder.path)) == 8
    assert set(states(config).values()) == {"finished"}


@pytest.mark.parametrize(
    ("changes", "key"),
    [
        ({"generate": {"guidance": 2.0}}, "generate"),
        ({"seeds": [5]}, "seeds"),
        ({"methods": {"lora": {"adapter.rank": 2}, "delora": {}}}, "methods"),
        ({"protocol": ["oft"], "drift": False}, "drift"),
    ],
)
def test_folder_of_another_grid_is_refused(make_config, changes, key):
    run(make_config())
    with pytest.raises(UserError, match=f"another grid: {key}"):
        run(make_config(**changes))


def test_folder_with_something_else_is_refused(make_config, tmp_path):
    (tmp_path / "bench").mkdir()
    (tmp_path / "bench" / "thesis.tex").write_text("precious")
    with pytest.raises(UserError, match="holds something else"):
        run(make_config())


def test_failed_cell_is_tried_twice_then_reported_and_the_grid_goes_on(make_config):
    config = make_config()
    folder = run(config, Failures(crashes=("delora",)))
    by_method = {cell.method: read_outcome(folder.run(cell)) for cell in read_plan(folder)["test"]}
    assert by_method["lora"].state == "finished"
    assert (by_method["delora"].state, by_method["delora"].reason) == ("failed", "train: OSError: the disk said no")
    attempts = (folder.run(read_plan(folder)["test"][-1]).path / "attempts.jsonl").read_text().splitlines()
    assert len(attempts) == 2
    run(config)
    assert set(states(config).values()) == {"finished", "failed"}


@pytest.mark.parametrize(
    "refusal", [DiskError("cannot write x: No space left on device"), OSError(errno.ENOSPC, "No space left on device")]
)
def test_full_disk_stops_the_grid_and_counts_as_no_attempt(make_config, refusal):
    def train(_):
        raise refusal

    config = make_config()
    with pytest.raises(type(refusal), match="No space left"):
        run_phases(config, replace(fake_stages(config), train=train), share_cells(0, 1))
    assert not list(Path(config.output_dir).rglob("attempts.jsonl"))
    run(config)
    assert set(states(config).values()) == {"finished"}


def test_a_stop_that_a_library_turns_into_an_error_counts_as_no_attempt(make_config):
    def train(_):
        try:
            os.kill(os.getpid(), signal.SIGTERM)
        except BaseException:
            raise ValueError("cannot load the file") from None

    config = make_config()
    with pytest.raises(Stopped), stopping_at_once():
        run_phases(config, replace(fake_stages(config), train=train), share_cells(0, 1))
    assert not list(Path(config.output_dir).rglob("attempts.jsonl"))
    run(config)
    assert set(states(config).values()) == {"finished"}


def test_diverged_cell_is_a_result_not_an_error(make_config):
    config = make_config()
    folder = run(config, Failures(diverges=("delora",)))
    outcome = next(read_outcome(folder.run(cell)) for cell in read_plan(folder)["test"] if cell.method == "delora")
    assert (outcome.state, outcome.reason) == ("diverged", "the loss was not finite at step 20")


def test_out_of_memory_halves_the_pack_and_says_so(make_config, capsys):
    config = make_config(pack="8", methods={"lora": {}})
    folder = run(config, Failures(largest_pack=1))
    assert set(states(config).values()) == {"finished"}
    assert len(trainings(folder.path)) == 4
    assert "out of GPU memory with a pack of 4; going on with packs of at most 2" in capsys.readouterr().err


def test_pack_of_one_that_does_not_fit_fails_the_cell_not_the_grid(make_config):
    config = make_config(pack="2")
    run(config, Failures(largest_pack=0))
    assert set(states(config).values()) == {"failed"}


def test_only_cells_that_can_train_together_share_a_pack(make_config):
    config = make_config(methods={"lora": {}, "lora_r4": {"adapter.method": "lora", "adapter.rank": 4}})
    packs = make_packs(open_folder(config), grid.test_cells(config), 30)
    assert [{cell.method for cell in pack} for pack in packs] == [{"lora"}, {"lora_r4"}]
    rates = make_config(matrix={"optimizer.lr": [1e-3, 1e-2]}, methods={"lora": {}})
    assert [len(pack) for pack in make_packs(open_folder(rates), grid.test_cells(rates), 6)] == [6, 2]


@pytest.mark.parametrize(("score", "best"), [("dino", 1e-3), ("copy_rate", 1e-2)])
def test_search_carries_the_best_setting_of_each_method_to_the_test(make_config, score, best):
    """dino is highest at 1e-3; the copy rate, of which less is better, is lowest at 1e-2."""
    rates = [1e-4, 1e-3, 1e-2, 1e-1]
    config = make_config(
        methods={"lora": {"tune": {"optimizer.lr": rates}}, "delora": {}},
        tune={"subjects": ["first 1"], "choose": score},
    )
    folder = run(config)
    chosen = json.loads(folder.chosen.read_text())
    assert list(chosen) == ["lora"]
    assert (chosen["lora"]["setting"], chosen["lora"]["score"]) == ({"optimizer.lr": best}, score)
    candidates = {found["setting"]["optimizer.lr"]: found["value"] for found in chosen["lora"]["candidates"]}
    assert list(candidates) == rates
    assert candidates[best] == (max if score == "dino" else min)(candidates.values())
    assert chosen["lora"]["value"] == candidates[best]
    if score == "dino":
        expected = {lr: dino_of("lora", "backpack", 0, 40, lr=lr) for lr in rates}
        assert candidates == pytest.approx(expected, abs=1e-6)
    tested = [cell for cell in read_plan(folder)["test"] if cell.method == "lora"]
    assert {cell.setting["optimizer.lr"] for cell in tested} == {best}
    trained = [load_config(TrainConfig, [folder.run(cell).config], []) for cell in tested]
    assert {train.optimizer.lr for train in trained} == {best}


def test_search_never_chooses_a_setting_that_lost_a_cell(make_config):
    """The best rate loses one of its two seeds: the next best is chosen."""
    config = make_config(
        methods={"lora": {"tune": {"optimizer.lr": [1e-4, 1e-3, 3e-3]}}},
        tune={"subjects": ["first 1"], "seeds": [0, 1], "choose": "dino"},
    )
    folder = run(config, Failures(diverges_at=(1e-3, 1)))
    chosen = json.loads(folder.chosen.read_text())["lora"]
    assert chosen["setting"] == {"optimizer.lr": 3e-3}
    assert [(found["scored"], found["cells"]) for found in chosen["candidates"]] == [(2, 2), (1, 2), (2, 2)]


def test_search_without_a_survivor_is_an_error_that_says_so(make_config):
    config = make_config(methods={"lora": {"tune": {"optimizer.lr": [1e-4, 1e-3]}}})
    with pytest.raises(UserError, match="search of lora: in every setting"):
        run(config, Failures(diverges=("lora",)))


def test_missing_photo_is_said_before_anything_starts(make_config, dataset):
    for photo in (dataset / "dog").iterdir():
        photo.unlink()
    with pytest.raises(UserError, match="no photos in"):
        run(make_config())
    assert not (Path(make_config().output_dir)).exists()


@pytest.mark.parametrize("change", ["other pixels", "one more", "one less"])
def test_new_cells_on_other_photos_do_not_stand_beside_old_ones(change, make_config, dataset):
    run(make_config(seeds=[0]))
    photo = dataset / "cat" / ("new.jpg" if change == "one more" else "00.jpg")
    photo.unlink(missing_ok=True)
    if change != "one less":
        Image.new("RGB", (64, 64), (1, 2, 3)).save(photo)
    before = snapshot(Path(make_config().output_dir))
    with pytest.raises(UserError, match=rf"was trained on other photos than .*cat holds: .*{photo.name}.*no rows of"):
        run(make_config())
    assert snapshot(Path(make_config().output_dir)) == before
    run(make_config(seeds=[0]))  # with nothing to train, a finished table is what it was
    assert set(states(make_config(seeds=[0])).values()) == {"finished"}


def test_photos_under_another_name_are_the_same_photos(make_config, dataset):
    run(make_config(seeds=[0]))
    (dataset / "cat" / "00.jpg").rename(dataset / "cat" / "zz.jpg")
    run(make_config())
    assert set(states(make_config()).values()) == {"finished"}


@pytest.mark.parametrize("name", ["m" * 215, "m" * 250])
def test_a_method_whose_cells_would_have_too_long_a_name_is_refused(name, make_config):
    config = make_config(methods={name: {"adapter.method": "lora"}})
    with pytest.raises(
        UserError, match=r"the folder of a cell: the name 'm+\.\.\.' has \d+ bytes; expected at most 220"
    ):
        run(config)
    assert not Path(config.output_dir).exists()


def test_a_relative_folder_of_weights_is_the_one_where_the_benchmark_began(make_config, tmp_path, monkeypatch):
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    settings = {"seeds": [0], "encoders": {"weights_dir": "weights"}, "lpips_weights": "alex.safetensors"}
    folder = run_benchmark(make_config(**settings), make_stages=fake_stages)
    assert load_benchmark(folder).encoders.weights_dir == str(tmp_path / "weights")
    assert load_benchmark(folder).lpips_weights == str(tmp_path / "alex.safetensors")
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(UserError, match=r"another grid: (lpips_weights|encoders\.weights_dir) is"):
        run_benchmark(make_config(**settings), make_stages=fake_stages)


def test_a_protocol_that_mixes_subjects_is_refused(make_config):
    with pytest.raises(UserError, match="mixes the folders of subjects"):
        run(make_config(protocol=["oft+substring_bug"]))
    assert not (Path(make_config().output_dir)).exists()


def test_images_made_elsewhere_are_judged_in_the_same_table(make_config, tmp_path):
    (tmp_path / "theirs").mkdir()
    config = make_config(methods={"lora": {}, "theirs": {"method": "images", "path": str(tmp_path / "theirs")}})
    folder = run(config)
    theirs = [cell for cell in read_plan(folder)["test"] if cell.method == "theirs"]
    assert [cell.subject for cell in theirs] == ["dog", "cat"]
    assert all(folder.run(cell).scores.exists() for cell in theirs)


@pytest.mark.parametrize("text", ["2/2", "1", "a/b", "-1/2", "1/0"])
def test_a_shard_is_i_of_n(text):
    with pytest.raises(UserError, match="expected i/n"):
        parse_shard(text)
