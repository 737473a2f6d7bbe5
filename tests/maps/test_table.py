"""The table on maps, from nothing to the page: rows, search, what is not done twice, and what is refused."""

import csv
import json
import shutil
from pathlib import Path

import pytest

from delora_eval.maps.rows import read_rows
from delora_eval.maps.settings import MapBenchmarkConfig
from delora_eval.maps.table_run import run_map_benchmark
from delora_sd.cli.main import main
from delora_sd.config.load import load_config
from delora_sd.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "benchmark"


def settings(tiny_sd: Path, map_folder: Path, output: Path, *more: str) -> MapBenchmarkConfig:
    training = {
        "model.base": str(tiny_sd), "data.dataset": str(map_folder), "data.search_maps": 2,
        "control.encoder": "scratch",
        "training.num_steps": 2, "training.batch_size": 2, "adapter.rank": 2,
    }  # fmt: skip
    rows = {
        "encoder_only": {"label": "Encoder only", "control.alone": True, "optimizer.lr": 1e-3},
        "lora": {"label": "LoRA", "adapter.method": "lora", "optimizer.lr": 1e-3, "note": "a note"},
    }
    config = MapBenchmarkConfig(output_dir=str(output), train=training, rows=rows, num_inference_steps=1, sheet_maps=2)
    return load_config(MapBenchmarkConfig, [], ["judge.segmenter=miniature", *more], start=config)


@pytest.fixture(scope="module")
def table(tiny_sd: Path, map_folder: Path, map_cache: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished table."""
    folder = tmp_path_factory.mktemp("table") / "t"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DELORA_SD_CACHE", str(map_cache))
        run_map_benchmark(settings(tiny_sd, map_folder, folder, "search=[1,4]", "paper=table2"))
    return folder


def test_the_table_has_the_real_photos_the_base_and_every_row(table: Path):
    rows = list(csv.reader((table / "tables" / "results.csv").read_text().splitlines()))
    assert [row[0] for row in rows] == ["Row", "Real photos", "Base, maps not shown", "Encoder only", "LoRA"]
    assert float(rows[1][3]) > 2 * float(rows[2][3]), "mini-seg knows the world's pictures, a random base draws none"
    page = (table / "report.html").read_text()
    for words in ("Real photos", "maps not shown", "27.3", "one-sided variant only", "a note", "FID is left out"):
        assert words in page
    for file in ("tables/results.md", "tables/results.tex", "tables/classes.md", "figures/agreement.svg"):
        assert (table / file).stat().st_size > 100
    assert (table / "figures" / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_the_search_looks_at_training_maps_and_tests_one_rate(table: Path):
    sets = {run.name: len(list((run / "images").iterdir())) for run in (table / "runs").iterdir() if run.name != "real"}
    assert sorted(sets) == ["encoder_only-x1", "encoder_only-x4", "lora-x1", "lora-x4", "no_control"]
    assert sorted(sets[f"lora-x{factor}"] for factor in (1, 4)) == [1, 2], "only the better one drew the test maps"
    for scores in (table / "runs").rglob("images/*/map_scores.json"):
        known = json.loads(scores.read_text())
        assert known["judge"]["num_maps"] in (2, 4) and len(known["images"]) == known["judge"]["num_maps"]


def test_again_and_after_losses_it_is_the_same_table(table: Path, tiny_sd: Path, map_folder: Path, tmp_path: Path):
    copy = tmp_path / "t"
    shutil.copytree(table, copy)
    files = {path: path.read_bytes() for path in (copy / "tables").iterdir()}
    lost = next(iter(sorted((copy / "runs" / "no_control" / "images").rglob("*.png"))))
    lost.unlink()
    next((copy / "runs").rglob("map_scores.json")).unlink()
    shutil.rmtree(copy / "runs" / "lora-x1" / "control")
    run_map_benchmark(settings(tiny_sd, map_folder, copy, "search=[1,4]", "paper=table2"))
    assert lost.exists() and {path: path.read_bytes() for path in (copy / "tables").iterdir()} == files


def test_images_of_a_set_and_of_any_folder_are_scored_alike(table: Path, map_folder: Path, tmp_path: Path, capsys):
    (images,) = (table / "runs" / "no_control" / "images").iterdir()
    given = [f"data.dataset={map_folder}", "data.search_maps=2", "judge.segmenter=miniature"]
    assert main(["score-maps", str(images), *given, f"output={tmp_path / 'a.json'}"]) == 0
    assert "mIoU" in capsys.readouterr().out
    for record in map(json.loads, (images / "images.jsonl").read_text().splitlines()):
        shutil.copy(images / record["file"], tmp_path / record["map"])
    assert main(["score-maps", str(tmp_path), *given, f"output={tmp_path / 'b.json'}"]) == 0
    first, second = (json.loads((tmp_path / name).read_text()) for name in ("a.json", "b.json"))
    assert first["miou_present"] == second["miou_present"] and first["kid"] == second["kid"]


def test_maps_and_photos_are_shown_side_by_side(map_folder: Path, tmp_path: Path, capsys):
    words = ["maps", str(map_folder), "data.search_maps=2", "count=3", f"output={tmp_path / 'page.html'}"]
    assert main(words) == 0
    assert "4 pairs, 34 classes, 3 shown" in capsys.readouterr().out
    assert (tmp_path / "page.html").read_text().count("<figure>") == 3


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["search=[0]"], "factors above 0"),
        (["rows.lora={adapter.method: lora}", "search=[1,2]"], "search needs the optimizer.lr"),
        (["rows.real={adapter.method: lora}"], "are always there"),
        (["rows.lora={adapter.method: nothing}"], "nothing"),
        (["rows={}"], "rows: none"),
    ],
)
def test_rows_that_cannot_work_are_refused(given, words: str, tiny_sd: Path, map_folder: Path, tmp_path: Path):
    with pytest.raises(UserError, match=words):
        read_rows(settings(tiny_sd, map_folder, tmp_path, *given))


@pytest.mark.parametrize("name", ["table2", "miniature_table2"])
def test_shipped_tables_have_their_rows(name: str):
    config = load_config(MapBenchmarkConfig, [CONFIGS / f"{name}.yaml"], ["output_dir=x"])
    rows = {row.name: row for row in read_rows(config)}
    assert "encoder_only" in rows and "ether_plus" in rows and rows["encoder_only"].trainings


def test_the_dry_run_says_hours_disk_and_parameters(capsys, tiny_sd: Path):
    words = ["benchmark-maps", str(CONFIGS / "table2.yaml"), "output_dir=x", f"train.model.base={tiny_sd}"]
    assert main([*words, "--dry-run"]) == 0
    printed = capsys.readouterr().out
    for words in (
        "20,010 training maps",
        "2,000 judged",
        "3 trainings",
        "16,281,968",
        "h on an H200",
        "of cached latents",
    ):
        assert words in printed
