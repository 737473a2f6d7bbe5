"""Every shipped benchmark: it expands, says what it costs and what the paper reports, and has a twin that runs here."""

from pathlib import Path

import pytest

from delora_eval.benchmark import grid
from delora_eval.benchmark.paper import paper_names
from delora_eval.benchmark.settings import BenchmarkConfig, generate_settings
from delora_sd.config.load import load_config

FOLDER = Path(__file__).parents[2] / "configs" / "benchmark"
FILES = sorted(
    path.name
    for path in FOLDER.glob("*.yaml")
    if not path.read_text().startswith("# delora-sd benchmark-maps")  # settings of their own: tests/maps
)
PAPERS_FIGURES = (
    "table1",
    "table3",
    "table10",
    "fig2",
    "fig3",
    "fig4",
    "fig5",
    "fig6",
    "fig7",
    "fig8",
    "lambda_lr_map",
)


def load(name: str) -> BenchmarkConfig:
    return load_config(BenchmarkConfig, [FOLDER / name], ["output_dir=runs/x"])


@pytest.mark.parametrize("name", PAPERS_FIGURES)
def test_everything_the_paper_shows_has_a_config_and_a_miniature_twin(name):
    assert f"{name}.yaml" in FILES and f"miniature_{name}.yaml" in FILES


@pytest.mark.parametrize("name", FILES)
def test_header_states_command_cost_and_source(name):
    header = [line for line in (FOLDER / name).read_text().splitlines() if line.startswith("#")]
    text = "\n".join(header)
    assert header[0] == f"# delora-sd benchmark configs/benchmark/{name} output_dir=runs/{name.removesuffix('.yaml')}"
    if name.startswith("miniature"):
        assert "Time on 2 CPU cores:" in text
    else:
        assert "Paper:" in text
        assert "by arithmetic and not measured" in text or "weight_norms" in (FOLDER / name).read_text()


@pytest.mark.parametrize("name", FILES)
def test_settings_are_known_and_scored_steps_are_saved(name, monkeypatch):
    downloaded = (*(f"subject{index:02d}" for index in range(29)), "vase")
    bundled = grid._subject_names("miniature")
    monkeypatch.setattr(grid, "_subject_names", lambda dataset: bundled if dataset == "miniature" else downloaded)
    config = load(name)
    generate_settings(config)
    assert config.paper is None or config.paper in paper_names()
    cells = grid.test_cells(config) + grid.tune_cells(config)
    assert cells or config.weight_norms
    is_miniature = name.startswith("miniature")
    assert {cell.train.model.base == "miniature" for cell in cells} <= {is_miniature}


def test_table_3_searches_on_three_subjects_and_tests_on_thirty(monkeypatch):
    monkeypatch.setattr(grid, "_subject_names", lambda dataset: tuple(f"subject{index:02d}" for index in range(30)))
    config = load("table3.yaml")
    assert {cell.subject for cell in grid.tune_cells(config)} == {"subject00", "subject01", "subject02"}
    assert len(grid.test_cells(config)) == 6 * 30 * 3
