import pytest

from delora_eval.benchmark import grid
from delora_eval.benchmark.methods import read_methods, resolve
from delora_sd.errors import UserError


def test_grid_is_the_product_of_methods_subjects_seeds_and_settings(make_config):
    config = make_config(matrix={"optimizer.lr": [1e-3, 1e-2, 1e-1]})
    cells = grid.test_cells(config)
    assert len(cells) == 2 * 2 * 2 * 3
    assert len({cell.id for cell in cells}) == len(cells)
    assert {cell.train.optimizer.lr for cell in cells} == {1e-3, 1e-2, 1e-1}


def test_id_covers_what_decides_the_adapter_and_nothing_else(make_config):
    def ids(**changes):
        return [cell.id for cell in grid.test_cells(make_config(**changes))]

    train = make_config().train
    assert ids() == ids(output_dir="/elsewhere", steps=[20, 40], generate={"guidance": 3.0})
    assert ids() == ids(train=train | {"training.log_every": 3})
    assert not set(ids()) & set(ids(train=train | {"training.batch_size": 2}))


def test_id_is_stable_between_versions(make_config):
    """A changed id would train every finished cell again."""
    config = make_config(train={"model.base": "miniature", "data.dataset": make_config().train["data"]["dataset"]})
    cell = grid.test_cells(config)[0]
    settings = grid.deciding_settings(cell.train)
    assert settings["seed"] == 0 and settings["data.subject"] == "dog" and "output_dir" not in settings
    assert grid._hash({"a": 1, "b": [1, 2]}) == "e6f20bdc"


def test_nested_dotted_and_command_line_settings_are_the_same(make_config):
    nested = make_config(methods={"delora": {"adapter": {"rank": 4}, "optimizer": {"lr": 0.02}}})
    dotted = make_config(methods={"delora": {"adapter.rank": 4, "optimizer.lr": 0.02}})
    command_line = make_config(methods={"delora": {"optimizer.lr": 0.02}, "delora.adapter.rank": 4})
    ids = [[cell.id for cell in grid.test_cells(config)] for config in (nested, dotted, command_line)]
    assert ids[0] == ids[1] == ids[2]


def test_factors_scale_the_settings_a_method_names(make_config):
    methods = {
        "delora": {"optimizer.lr": 6e-3, "optimizer.boundary_lr": 1e-3, "scaled": ["optimizer.boundary_lr"]},
        "lora": {"optimizer.lr": 6e-4},
    }
    cells = grid.test_cells(make_config(methods=methods, factors=[1, 4]))
    rates = {(cell.method, cell.setting["factor"]): cell.train.optimizer for cell in cells}
    assert (rates["delora", 4].lr, rates["delora", 4].boundary_lr) == (6e-3, 4e-3)
    assert (rates["lora", 4].lr, rates["lora", 4].boundary_lr) == (2.4e-3, 1e-3)


def test_subjects_are_named_counted_or_all(make_config):
    assert grid.choose_subjects(("all",), make_config(), key="subjects") == ("backpack", "cat", "dog")
    assert grid.choose_subjects(("first 2", "dog", "cat"), make_config(), key="subjects") == ("backpack", "cat", "dog")


def test_search_cells_come_from_each_methods_own_matrix(make_config):
    config = make_config(
        methods={"lora": {"tune": {"optimizer.lr": [1e-4, 1e-3]}}, "delora": {"tune": {"adapter.boundary": [2, 4, 8]}}},
        tune={"subjects": ["first 1"]},
    )
    cells = grid.tune_cells(config)
    assert [cell.setting for cell in cells] == [
        {"optimizer.lr": 1e-4},
        {"optimizer.lr": 1e-3},
        {"adapter.boundary": 2},
        {"adapter.boundary": 4},
        {"adapter.boundary": 8},
    ]
    found = grid.test_cells(config, {"delora": {"adapter.boundary": 4}})
    assert {cell.train.adapter.boundary for cell in found if cell.method == "delora"} == {4}


def test_preset_file_gives_a_methods_settings(make_config, tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("adapter: {method: lora, rank: 2}\n")
    config = make_config(methods={"mine": {"preset": str(preset), "optimizer.lr": 1e-3}})
    train = resolve(read_methods(config)[0], {})
    assert (train.adapter.method, train.adapter.rank, train.optimizer.lr) == ("lora", 2, 1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": {"lorra": {}}}, "unknown method 'lorra'; did you mean 'lora'"),
        ({"methods": {"lora": {"adapter.rnk": 3}}}, "methods.lora: unknown setting 'adapter.rnk'"),
        ({"matrix": {"optimizer.lrr": [1, 2]}}, "did you mean 'optimizer.lr'"),
        ({"matrix": {"optimizer.lr": ["fast"]}}, "matrix: optimizer.lr: expected a number"),
        ({"matrix": {"optimizer.lr": []}}, "0 cells"),
        ({"methods": {}}, "0 cells: methods is empty"),
        ({"seeds": []}, "0 cells: seeds is empty"),
        ({"subjects": ["dgo"]}, "unknown subject 'dgo'; did you mean 'dog'"),
        ({"steps": [30]}, "steps: 30 is no checkpoint of lora"),
        ({"methods": {"lora": {}, "dora": {"model.base": "elsewhere"}}}, "one table needs one model.base"),
        ({"factors": [1, 2]}, "`factors` multiply optimizer.lr, which is left at its default"),
        ({"methods": {"lora": {"seed": 3}}}, "seed is decided by the grid"),
        ({"methods": {"theirs": {"method": "images"}}}, "needs `path`"),
        ({"methods": {"theirs": {"method": "images", "path": "/nowhere"}}}, "no such folder"),
        ({"methods": {"a/b": {"adapter.method": "lora"}}}, "a method's name"),
    ],
)
def test_mistakes_in_the_grid_say_what_is_accepted(make_config, changes, message):
    with pytest.raises(UserError, match=message.replace("(", r"\(").replace("`", "`")):
        grid.test_cells(make_config(**changes))
