from dataclasses import field, make_dataclass, replace
from pathlib import Path

import pytest

from delora_eval.benchmark import grid
from delora_eval.benchmark.methods import read_methods, resolve
from delora_sd.config import deciding
from delora_sd.errors import UserError
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrainingConfig


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


def with_a_new_setting(monkeypatch, **default) -> type[TrainConfig]:
    """Returns the settings as a later version will have them: one more in `training`."""
    name, value = next(iter(default.items()))
    training = make_dataclass(
        "TrainingConfig", [(name, type(value), value)], bases=(TrainingConfig,), frozen=True, kw_only=True
    )
    train = make_dataclass(
        "TrainConfig",
        [("training", training, field(default_factory=training))],
        bases=(TrainConfig,),
        frozen=True,
        kw_only=True,
    )
    monkeypatch.setattr(deciding, "TrainConfig", train)
    return train


def test_a_new_setting_leaves_every_hash_as_it_was(monkeypatch):
    before = grid.training_hash(TrainConfig(seed=3))
    later = with_a_new_setting(monkeypatch, ema_decay=0.0)
    assert grid.training_hash(later(seed=3)) == before
    assert grid.full_hash(later(seed=3)) == grid.full_hash(TrainConfig(seed=3))
    used = later(seed=3, training=replace(later().training, ema_decay=0.99))
    assert grid.training_hash(used) != before and grid.full_hash(used) is None


def test_a_new_setting_that_is_on_by_default_makes_other_cells(monkeypatch):
    before = grid.training_hash(TrainConfig())
    monkeypatch.setitem(deciding.FIRST_DEFAULTS, "training.ema_decay", 0.0)
    later = with_a_new_setting(monkeypatch, ema_decay=0.99)
    assert grid.training_hash(later()) != before
    assert grid.training_hash(later(training=replace(later().training, ema_decay=0.0))) == before


def test_a_changed_default_leaves_the_hash_of_every_other_value(monkeypatch):
    """As if eps had been 1e-6 before it became 1e-8."""
    new, old, third = (TrainConfig(optimizer=OptimizerConfig(eps=eps)) for eps in (1e-8, 1e-6, 1e-4))
    before = {name: grid.training_hash(config) for name, config in {"new": new, "old": old, "third": third}.items()}
    monkeypatch.setitem(deciding.FIRST_DEFAULTS, "optimizer.eps", 1e-6)
    assert grid.training_hash(old) == before["new"], "the old default is what names nothing"
    assert grid.training_hash(new) not in before.values()
    assert grid.training_hash(third) == before["third"]


def test_hashes_are_those_of_yesterday():
    """A changed hash would train every finished cell again. The full ones were written by the first edition."""
    config = TrainConfig(seed=2, data=DataConfig(subject="dog"), adapter=AdapterConfig(rank=4, boundary=2.5))
    assert (grid.training_hash(config), grid.full_hash(config)) == ("2ce0643f", "63ce0b89")
    config = replace(
        config,
        model=ModelConfig(base="miniature"),
        adapter=AdapterConfig(method="lora", rank_pattern={"mid": 2}),
        optimizer=OptimizerConfig(lr=1e-3, betas=(0.8, 0.9)),
        output_dir="anywhere",
    )
    assert (grid.training_hash(config), grid.full_hash(config)) == ("272bef46", "2ad0d554")


def test_cells_that_the_first_edition_began_keep_their_names(make_config):
    config = make_config()
    new = grid.test_cells(config)
    old = f"{new[0].method}-{new[0].subject}-s{new[0].seed}-{grid.full_hash(new[0].train)}"
    (Path(config.output_dir) / "cells" / old).mkdir(parents=True)
    assert [cell.id for cell in grid.test_cells(config)] == [old, *(cell.id for cell in new[1:])]


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
    assert grid.choose_subjects(("first 2", "cat"), make_config(), key="subjects") == ("backpack", "cat")
    assert grid.choose_subjects(("dog", "first 1"), make_config(), key="subjects") == ("dog", "backpack")


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


def test_every_cell_has_the_id_its_own_settings_give(make_config):
    """What cells of a row share is worked out once; the id is still that of the whole settings."""
    config = make_config(matrix={"adapter.rank": [4, 16]})
    for cell in grid.test_cells(config):
        assert cell.id == f"{cell.method}-{cell.subject}-s{cell.seed}-{grid.training_hash(cell.train)}"
    old = [
        f"{cell.method}-{cell.subject}-s{cell.seed}-{grid.full_hash(cell.train)}" for cell in grid.test_cells(config)
    ]
    for name in old[::3]:
        (Path(config.output_dir) / grid.CELLS / name).mkdir(parents=True)
    assert [cell.id for cell in grid.test_cells(config)][::3] == old[::3]
    assert not {cell.id for cell in grid.test_cells(config)} & (set(old) - set(old[::3]))


def test_the_first_cell_of_each_method_draws_with_its_exports_and_nobody_is_named_by_it(make_config):
    cells = grid.test_cells(make_config())
    assert [cell.train.training.export_check for cell in cells] == (["images"] + ["tensors"] * 3) * 2
    asked = grid.test_cells(make_config(train=make_config().train | {"training.export_check": "images"}))
    assert {cell.train.training.export_check for cell in asked} == {"images"}
    assert [cell.id for cell in asked] == [cell.id for cell in cells]
