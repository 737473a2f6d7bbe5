"""Judges of the family in a benchmark: their own columns, planes and places, and what they cost."""

import pytest

from delora_eval.benchmark.folder import evaluation_fingerprint
from delora_eval.benchmark.report.contents import build_tables
from delora_eval.benchmark.report.figures.figures import build_figures
from delora_eval.benchmark.report.numbers.view import read_view
from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_eval.scoring.record.costs import costs_file
from delora_eval.settings import FamilyConfig
from delora_sd.errors import UserError
from delora_sd.files.run_folder import read_lines, write_json, write_lines

from ..fakes import fake_stages


@pytest.fixture
def scored_by_dreamsim(make_config):
    """A finished benchmark whose every DINO line also stands as DreamSim's, 0.1 lower, with what it took."""
    folder = run_benchmark(make_config(methods={"lora": {}, "delora": {}, "dora": {}}), fake_stages)
    for cell in read_view(folder).cells:
        file = folder.run(cell).scores
        lines = read_lines(file)
        copies = [
            line
            | {"score": line["score"].replace("dino", "dreamsim"), "encoder": "dreamsim/ensemble"}
            | {"value": line["value"] - 0.1}
            for line in lines
            if line["score"] in ("dino", "real_dino")
        ]
        write_lines(file, lines + copies)
        write_json(costs_file(file), {"dreamsim/ensemble": {"seconds": 1.5, "images": 10, "device": "cpu"}})
    return folder


def test_classic_and_family_judges_are_printed_in_one_report_with_what_they_cost(scored_by_dreamsim):
    view = read_view(scored_by_dreamsim)
    tables = {table.name: table for table in build_tables(view)}
    assert "DreamSim" in tables[next(name for name in tables if name.startswith("further"))].columns
    row = view.main.rows[0]
    assert row.scores["dreamsim"].seeds.mean == pytest.approx(row.scores["dino"].seeds.mean - 0.1)
    assert view.main.real["dreamsim"] == pytest.approx(view.main.real["dino"] - 0.1)
    cells = len(view.cells)
    assert tables["judge_cost"].rows == (
        ("dreamsim/ensemble", "cpu", f"{1.5 * cells:.1f} s", str(10 * cells), "0.1500"),
    )
    assert ("DreamSim", "subject") in [line[:2] for line in tables["agreement"].rows]
    assert any("dreamsim" in drawing.name for drawing in build_figures(view))


def test_a_benchmark_without_its_deciding_judge_is_refused_at_the_door(make_config):
    with pytest.raises(UserError, match=r"judges\.set: a benchmark needs `classic` too"):
        run_benchmark(make_config(judges={"set": ["wide"]}), fake_stages)
    with pytest.raises(UserError, match="did you mean 'dreamsim/ensemble'"):
        run_benchmark(make_config(judges={"set": ["classic", "dreamsim"]}), fake_stages)


def test_other_judges_score_cells_anew_and_the_classic_ones_alone_change_nothing(make_config):
    config, wider = make_config(), make_config(judges={"set": ["all"]})
    folder = run_benchmark(config, fake_stages)
    cell = read_view(folder).cells[0]
    assert evaluation_fingerprint(config, cell) != evaluation_fingerprint(wider, cell)
    assert evaluation_fingerprint(make_config(judges={"set": ["classic"]}), cell) == evaluation_fingerprint(
        config, cell
    )
    assert FamilyConfig() == config.judges
