"""What the first edition wrote is gone on with, loaded and reported: see fixtures/first_edition/README.md."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from delora_eval.benchmark.folder import BenchmarkFolder, load_benchmark, read_outcome, read_plan
from delora_sd import miniature
from delora_sd.adapters.exchange.stored.formats import load_adapter
from delora_sd.cli.main import main
from delora_sd.files.run_folder import RunFolder, read_json, read_lines

FIRST_EDITION = Path(__file__).parents[1] / "fixtures" / "first_edition"
PROMPTS = "prompts=['a {identifier} {class_word} here', 'a {class_word}']"

CLOSE = {"atol": 1e-4, "rtol": 1e-4}
"""Between two kinds of CPU: float32's 6e-8 in each of some thousand sums; six steps move a tensor by 0.1."""

pytestmark = [
    pytest.mark.filterwarnings("default"),
    pytest.mark.skipif(
        not all((weights / "model.safetensors").exists() for weights in miniature.JUDGES.values()),
        reason="NO JUDGES: the miniature's weights are not in this checkout",
    ),
]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the folders, in the working directory: their paths are relative."""
    copy = shutil.copytree(FIRST_EDITION, tmp_path / "work")
    monkeypatch.chdir(copy)
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))
    return copy


def files_of(folder: Path) -> dict[Path, tuple[int, bytes]]:
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes())
        for path in folder.rglob("*")
        if path.is_file() and not path.name.endswith("lock")
    }


def adapter_of(run: str) -> dict[str, torch.Tensor]:
    return load_file(Path(run) / "adapter" / "adapter_model.safetensors")


def changes_of(file: str | Path) -> dict[str, torch.Tensor]:
    """Returns what a kohya file adds to each layer's weight; the factors may be others."""
    tensors, key = load_file(file), ".lora_down.weight"
    return {
        (layer := name.removesuffix(key)): tensors[f"{layer}.lora_up.weight"].float().flatten(1)
        @ down.float().flatten(1)
        * (tensors[f"{layer}.alpha"].item() / down.shape[0])
        for name, down in tensors.items()
        if name.endswith(key)
    }


def test_a_half_trained_run_goes_on_from_its_checkpoint(folder: Path):
    shutil.copytree("half_way", "once_more")
    assert main(["train", "half_way/config.yaml"]) == 0
    assert [event["step"] for event in read_lines(Path("half_way/events.jsonl")) if "loss" in event] == [*range(1, 7)]
    assert main(["train", "once_more/config.yaml", "output_dir=once_more"]) == 0
    assert main(["train", "half_way/config.yaml", "output_dir=from_the_start"]) == 0
    resumed, again, whole = (adapter_of(run) for run in ("half_way", "once_more", "from_the_start"))
    assert resumed.keys() == again.keys() == whole.keys()
    assert all(torch.equal(resumed[name], again[name]) for name in resumed)
    torch.testing.assert_close(resumed, whole, **CLOSE)
    torch.testing.assert_close(resumed, adapter_of("finished"), **CLOSE)


def test_other_settings_than_those_of_the_folder_are_still_refused(folder: Path, capsys: pytest.CaptureFixture):
    assert main(["train", "half_way/config.yaml", "optimizer.weight_decay=0"]) == 2
    assert "was begun with optimizer.weight_decay=0.01, now it is 0" in capsys.readouterr().err


def test_a_finished_run_and_its_images_are_left_alone(folder: Path):
    before = files_of(folder / "finished")
    assert main(["train", "finished/config.yaml"]) == 0
    assert main(["generate", "finished", PROMPTS, "images_per_prompt=2", "num_inference_steps=2"]) == 0
    after = files_of(folder / "finished")
    assert after.keys() == before.keys()
    assert {path for path in before if after[path] != before[path]} <= {*folder.glob("finished/images/*/images.jsonl")}
    assert all(after[path][1] == before[path][1] for path in before)


def test_a_finished_adapter_draws_and_exports_what_it_did(folder: Path):
    run = RunFolder(folder / "finished")
    assert load_adapter(run.adapter).num_parameters() == read_json(run.manifest)["trainable_parameters"]
    assert (
        main(["generate", "finished", PROMPTS, "num_inference_steps=2", "output_dir=drawn", "images_per_prompt=2"]) == 0
    )
    then = sorted(run.images.glob("*/*.png"))
    assert len(then) == 4
    for file in then:
        new = folder / "drawn" / file.relative_to(run.path)
        images = [np.asarray(Image.open(path), dtype=int) for path in (file, new)]
        assert abs(images[0] - images[1]).max() <= 1, "a rounding at most"
    assert main(["export", "finished", "output=again.safetensors"]) == 0
    then, now = (changes_of(file) for file in (run.export / "finished.kohya.safetensors", "again.safetensors"))
    assert then.keys() == now.keys()
    for layer, change in then.items():
        assert (now[layer] - change).norm() < 4 * torch.finfo(torch.float16).eps * change.norm()


def test_a_finished_run_is_scored_and_reported(folder: Path):
    scores = {(line["set"], line["score"], line["prompt"]): line for line in read_lines(Path("finished/scores.jsonl"))}
    assert main(["score", "finished", "protocol=miniature"]) == 0
    for line in read_lines(Path("finished/scores.jsonl")):
        then = scores.pop((line["set"], line["score"], line["prompt"]))["value"]
        assert line["value"] == pytest.approx(then, abs=2e-6), line
    assert scores == {}
    assert main(["report", "finished"]) == 0
    assert "RANDOM" in Path("finished/report.html").read_text()


def test_a_benchmark_is_reported_gone_on_with_and_extended(folder: Path):
    assert main(["report", "benchmark"]) == 0
    bench = BenchmarkFolder(folder / "benchmark")
    first, second = (bench.run(cell) for cell in read_plan(bench)["test"])
    before = files_of(first.path)
    assert read_outcome(second) is None and load_benchmark(bench).seeds == (0, 1)

    assert main(["benchmark", "benchmark/benchmark.yaml", "seeds=[0, 1, 2]"]) == 0
    assert files_of(first.path) == before, "a finished cell is not touched"
    assert [event["step"] for event in second.read_events() if "loss" in event] == [1, 2, 3, 4]
    cells = read_plan(bench)["test"]
    assert [bench.run(cell).path for cell in cells[:2]] == [first.path, second.path]
    assert {path.name for path in (bench.path / "cells").iterdir()} == {cell.id for cell in cells}
    assert [read_outcome(bench.run(cell)).state for cell in cells] == ["finished"] * 3
