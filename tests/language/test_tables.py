"""The tables: presets, plans, and one small table from settings to page, CSV and LaTeX."""

import csv
from pathlib import Path

import pytest

from delora_eval.language.grid import read_entries, search_cells, table_cells
from delora_eval.language.run.dry_run import price_of
from delora_eval.language.run.harness import PAPER, read_answers
from delora_eval.language.settings import LanguageConfig
from delora_eval.language.table import run_table
from delora_sd.cli.main import main
from delora_sd.config.load import load_config
from delora_sd.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs" / "language"

TABLE_9 = {
    "mnli": (12, 1e-3, 3e-3, 32, 30, 0.0), "sst2": (12, 1e-3, 3e-3, 32, 30, 0.1), "mrpc": (4, 3e-2, 1e-2, 32, 40, 0.2),
    "cola": (4, 1e-2, 1e-2, 8, 80, 0.2), "qnli": (12, 3e-3, 3e-3, 32, 25, 0.25), "qqp": (12, 3e-3, 3e-3, 32, 25, 0.1),
    "rte": (4, 1e-2, 1e-2, 32, 80, 0.0), "stsb": (12, 1e-2, 1e-2, 8, 40, 0.2),
}  # fmt: skip
"""(lambda, lr of B A, lr of lambda, batch, epochs, dropout)"""


def cells_of(name, *overrides):
    config = load_config(LanguageConfig, [CONFIGS / f"{name}.yaml"], list(overrides))
    entries = read_entries(config)
    return config, search_cells(config, entries), table_cells(config, entries, {})


def test_the_glue_config_is_table_9():
    config, _, cells = cells_of("glue")
    found = {}
    for cell in cells:
        adapter, tuning = cell.training.adapter, cell.training.tuning
        numbers = (
            adapter.boundary,
            tuning.lr,
            tuning.boundary_lr,
            tuning.batch_size,
            tuning.num_epochs,
            tuning.dropout,
        )
        if cell.entry.name == "delora":
            found.setdefault(cell.training.task, set()).add(numbers)
            assert (adapter.rank, adapter.init, tuning.max_tokens, tuning.warmup_share) == (8, "frozen_copy", 256, 0.06)
    assert found == {task: {numbers} for task, numbers in TABLE_9.items()}
    assert config.seeds == (42, 43, 44, 45, 46) and len(cells) == 6 * 8 * 5


def test_the_plan_prices_the_real_tables_without_their_weights():
    _, _, cells = cells_of("glue")
    prices = {c.training.task: price_of(c) for c in cells if c.entry.name == "delora" and c.training.seed == 42}
    assert {price.num_parameters for price in prices.values()} == {294_936}
    large = sum(prices[task].num_examples for task in ("mnli", "sst2", "qnli", "qqp"))
    assert large == pytest.approx(25.5e6, rel=0.01)
    hours = sum(prices[task].hours for task in ("mnli", "sst2", "qnli", "qqp"))
    assert 1 < hours < 10  # about 3 on an H100
    _, _, cells = cells_of("instructions")
    price = next(price_of(cell) for cell in cells if cell.entry.name == "delora")
    assert price.num_parameters == 4_194_304 + 64 and price.num_steps == 6220 and 0.2 < price.hours < 2


def test_every_difference_in_what_is_computed_is_another_cell():
    names = [
        cells_of("miniature_glue", *overrides)[2][0].name
        for overrides in ([], ["protocol=authors"], ["train.tuning.dropout=0.1"], ["seeds=[7]"])
    ]
    assert len(set(names)) == 4
    assert cells_of("miniature_glue", "train.model.offline=true")[2][0].name == names[0]


def test_answers_to_some_questions_are_not_taken_for_answers_to_all():
    names = [
        [cell.name for cell in cells_of("miniature_instructions", *overrides)[2]]
        for overrides in ([], ["benchmarks.limit=10"], ["benchmarks.adds_bos=true"])
    ]
    assert len({name for of_one in names for name in of_one}) == 3 * len(names[0])
    assert [cell.name for cell in cells_of("miniature_instructions", "benchmarks.batch_size=1")[2]] == names[0]


def test_factors_multiply_every_methods_own_rate():
    _, _, cells = cells_of("miniature_rates", "factors=[1,4]", "seeds=[42]")
    rates = {(cell.entry.name, cell.factor): cell.training.tuning.lr for cell in cells}
    assert rates["delora", 4.0] == 4 * rates["delora", 1.0] and rates["lora", 4.0] == 4 * rates["lora", 1.0]


def test_a_search_tries_every_point_once():
    _, searched, cells = cells_of(
        "miniature_glue", "methods.delora.tune={tuning.lr: [1e-3, 1e-2, 1e-1]}", "tasks=[rte]"
    )
    assert [cell.training.tuning.lr for cell in searched] == [1e-3, 1e-2, 1e-1]
    assert {cell.training.seed for cell in searched} == {42} and len(
        [c for c in cells if c.entry.name == "delora"]
    ) == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("tasks=[sst]", r"unknown task 'sst'; did you mean 'sst2'"),
        ("methods.delora.tuning.rl=1", r"methods.delora: unknown setting 'tuning.rl'"),
        ("methods.delora.seed=1", r"methods.delora: seed is decided by the grid"),
        ("methods.delora.tune={tuning.lr: []}", r"methods.delora.tune: expected"),
        ("seeds=[]", r"seeds: empty"),
        ("methods.base={}", r"methods.base: a method's name"),
    ],
)
def test_grids_that_say_nothing_are_refused(override, message):
    with pytest.raises(UserError, match=message):
        cells_of("miniature_glue", override)


def settings(tiny_encoder, folder, *more):
    return load_config(
        LanguageConfig,
        [CONFIGS / "miniature_glue.yaml"],
        [
            f"output_dir={folder}", f"train.model.base={tiny_encoder}", "train.tuning.num_epochs=1",
            "train.tuning.batch_size=128", "train.tuning.max_tokens=32", "tasks=[rte]", "paper=table4",
            "methods={delora: {label: DeLoRA}, lora: {tuning.lr: 1e-3}}", *more,
        ],
    )  # fmt: skip


@pytest.fixture(scope="module")
def finished(tiny_encoder, tmp_path_factory):
    config = settings(tiny_encoder, tmp_path_factory.mktemp("table"))
    run_table(config)
    return config


def test_a_table_is_written_as_page_csv_and_latex_with_published_rows(finished):
    folder = Path(finished.output_dir)
    with (folder / "tables" / "glue.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["Method"] for row in rows][:3] == ["DeLoRA", "lora", "published: DeLoRA"]
    assert rows[2]["RTE"] == "77.1 ± 3.65" and "±" in rows[0]["RTE"] and rows[0]["Mean"] == rows[0]["RTE"]
    assert r"\toprule" in (folder / "tables" / "glue.tex").read_text()
    page = (folder / "report.html").read_text()
    assert "published: DeLoRA" in page and "one cut for all seeds" in page
    assert "300" in (folder / "tables" / "glue_certainty.csv").read_text()
    assert not list(folder.glob("cells/*/work"))


def test_the_same_command_again_trains_nothing(finished, monkeypatch):
    results = {path: path.stat().st_mtime_ns for path in Path(finished.output_dir).glob("cells/*/result.json")}
    monkeypatch.setattr("delora_eval.language.table.run_glue_cell", None)
    run_table(finished)
    assert len(results) == 4 and all(path.stat().st_mtime_ns == before for path, before in results.items())


def test_other_weights_under_the_same_name_are_refused(finished, tiny_encoder, monkeypatch):
    monkeypatch.setattr("delora_eval.language.run.door.weights_hash", lambda base: "0" * 64)
    with pytest.raises(UserError, match=r"has the weights 000000000000, .* was made from"):
        run_table(finished)


def test_layers_the_model_lacks_are_refused_at_the_door(tiny_encoder, tmp_path):
    with pytest.raises(UserError, match=r"no layer ends with 'q_proj'; layers here end with"):
        run_table(settings(tiny_encoder, tmp_path, "train.adapter.target_modules=[q_proj]"))
    assert not list(tmp_path.iterdir())


def test_a_missing_package_is_named_with_its_line(tiny_encoder, tmp_path, monkeypatch):
    import delora_sd.language.data.packages as packages

    def missing(name):
        raise ImportError(f"No module named '{name}'")

    monkeypatch.setattr(packages.importlib, "import_module", missing)
    with pytest.raises(UserError, match=r"datasets is missing .* pip install 'delora_sd\[language\]'"):
        run_table(settings(tiny_encoder, tmp_path))


def answers(accuracies, sizes):
    return {
        "results": {name: {"acc,none": value, "acc_stderr,none": 0.01} for name, value in accuracies.items()},
        "n-samples": {name: {"original": size, "effective": size} for name, size in sizes.items()},
        "versions": dict.fromkeys(accuracies, 2.0),
    }


def test_mmlu_is_averaged_both_ways():
    accuracies = {
        "mmlu_law": 0.2, "mmlu_art": 0.6, "arc_challenge": 0.5, "truthfulqa_mc1": 0.3, "truthfulqa_mc2": 0.4,
    }  # fmt: skip
    sizes = {"mmlu_law": 300, "mmlu_art": 100} | dict.fromkeys(list(accuracies)[2:], 50)
    found = read_answers(answers(accuracies | {"mmlu": 0.3, "mmlu_other": 0.9}, sizes), PAPER)
    assert found.scores["mmlu"] == pytest.approx(40) and found.scores["mmlu_by_size"] == pytest.approx(30)
    assert found.scores["mean"] == pytest.approx((40 + 50 + 30 + 40) / 4)
    assert found.versions["truthfulqa_mc2"] == 2.0 and found.errors["mmlu"] == pytest.approx(2**0.5 / 2)


@pytest.mark.slow
def test_a_table_of_instructions_is_asked_through_lm_eval(tiny_causal, tmp_path):
    pytest.importorskip("lm_eval", reason="NO LM-EVAL: pip install 'delora_sd[language]'")
    arguments = ["language", str(CONFIGS / "miniature_instructions.yaml"), f"output_dir={tmp_path}"]
    arguments += [f"train.model.base={tiny_causal}", "train.tuning.num_epochs=0.2", "methods={delora: {}}"]
    assert main(arguments) == 0
    with (tmp_path / "tables" / "instructions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["Method"] for row in rows] == ["base", "delora"]
    assert all(float(row["MMLU"]) >= 0 and row["MMLU by size"] for row in rows)
    assert (tmp_path / "cells").glob("delora-*/adapter/adapter_config.json")
