"""The real stages, small: a tiny random base, two methods, images made elsewhere, the bundled judges, a report."""

from pathlib import Path

import pytest
from PIL import Image

from delora_eval.benchmark.folder import read_outcome, read_plan
from delora_eval.benchmark.report.numbers.view import read_view
from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_sd import miniature

from .fakes import idle_stages


@pytest.fixture
def theirs(tmp_path) -> Path:
    """Images of both subjects made by somebody else."""
    for subject in ("dog", "cat"):
        folder = tmp_path / "theirs" / subject
        folder.mkdir(parents=True)
        for index in range(2):
            Image.new("RGB", (32, 32), (90 * index, 60, 120)).save(folder / f"{index}.png")
    return tmp_path / "theirs"


@pytest.mark.skipif(
    not all((weights / "model.safetensors").exists() for weights in miniature.JUDGES.values()),
    reason="NO JUDGES: the miniature's weights are not in this checkout",
)
@pytest.mark.filterwarnings("default")
def test_from_photos_to_report_and_again_without_any_work(make_config, tiny_sd, dataset, theirs):
    config = make_config(
        train={
            "model": {"base": str(tiny_sd)},
            "data": {"dataset": str(dataset)},
            "adapter.rank": 2,
            "training": {"num_steps": 4, "checkpoint_every": 2, "num_class_images": 2, "log_every": 1},
        },
        methods={
            "lora": {},
            "delora": {"label": "DeLoRA <b>"},
            "theirs": {"method": "images", "path": str(theirs)},
        },
        seeds=[0],
        steps=[0, 2, 4],
        generate={
            "prompts": ["a {identifier} {class_word} here", "a {class_word}, a {identifier}"],
            "num_inference_steps": 2,
        },
        protocol=["miniature"],
        projection="attn1.to_out.0",
    )
    folder = run_benchmark(config)
    cells = read_plan(folder)["test"]
    assert {read_outcome(folder.run(cell)).state for cell in cells} == {"finished"}
    view = read_view(folder)
    rows = {row.method: row for row in view.main.rows}
    assert set(rows) == {"lora", "delora", "theirs"}
    assert {"dino", "clip_i", "clip_t", "diversity_dino", "drift_dino", "pres"} <= rows["delora"].scores.keys()
    assert "dino" in rows["theirs"].scores
    assert rows["lora"].cost.parameters and rows["lora"].cost.file_bytes
    assert sorted(view.main.at_steps(rows["lora"])) == [0, 2, 4]
    assert view.is_random and "RANDOM WEIGHTS" in folder.report.read_text()
    assert "<b>" not in folder.report.read_text().split("<body>")[1]

    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    run_benchmark(config, idle_stages)
    assert {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()} == before
