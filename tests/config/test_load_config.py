"""Settings: defaults < files < key=value, and what each mistake says."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from delora_sd.config.load import MAX_YAML_BYTES, from_dict, load_config, read_yaml, to_dict
from delora_sd.errors import UserError
from delora_sd.settings import GenerateConfig, TrainConfig


def train(*overrides: str) -> TrainConfig:
    return load_config(TrainConfig, [], list(overrides))


def error_of(*overrides: str) -> str:
    with pytest.raises(UserError) as caught:
        train(*overrides)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def error_of_file(folder: Path, text: str | bytes) -> str:
    file = folder / "settings.yaml"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as caught:
        load_config(TrainConfig, [file], [])
    message = str(caught.value)
    assert str(file) in message and "\n" not in message
    return message.replace(str(file), "FILE")


def test_defaults_then_files_left_to_right_then_overrides(tmp_path):
    first, second = tmp_path / "first.yaml", tmp_path / "second.yaml"
    first.write_text("seed: 1\nadapter: {rank: 4, boundary: 2}\n")
    second.write_text("adapter:\n  rank: 8\n")
    config = load_config(TrainConfig, [first, second], ["seed=3", "adapter.method=lora", "seed=5"])
    assert (config.seed, config.adapter.rank, config.adapter.boundary, config.adapter.method) == (5, 8, 2.0, "lora")
    assert config.training == TrainConfig().training


def test_a_setting_is_spelled_the_same_in_a_file_and_on_the_command_line(tmp_path):
    file = tmp_path / "dotted.yaml"
    file.write_text("adapter.rank: 4\noptimizer: {lr: 2e-2}\n")
    assert load_config(TrainConfig, [file], []) == train("adapter.rank=4", "optimizer.lr=2e-2")


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optimizer.lr=2e-2", "lr", 0.02),
        ("optimizer.lr=.5", "lr", 0.5),
        ("optimizer.lr=1", "lr", 1.0),
        ("optimizer.lr=none", "lr", None),
        ("optimizer.lr=null", "lr", None),
        ("optimizer.lr=", "lr", None),
        ("optimizer.betas=[0.5, 9e-1]", "betas", (0.5, 0.9)),
        ("optimizer.warmup_steps=-3", "warmup_steps", -3),
    ],
)
def test_numbers_are_read_as_the_setting_declares_them(override, key, value):
    found = getattr(train(override).optimizer, key)
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize(
    "text", ["no", "on", "5", "0x10", "1e3", "2024-01-01", "${oc.env:HOME}", "???", "#1", "a #b", "C:\\x", "*rex", "ä"]
)
def test_a_text_setting_takes_what_is_written(text, tmp_path):
    assert train(f"data.class_word={text}").data.class_word == text
    file = tmp_path / "quoted.yaml"
    file.write_text(f"data: {{class_word: {json.dumps(text)}}}", encoding="utf-8")
    assert load_config(TrainConfig, [file], []).data.class_word == text


@pytest.mark.parametrize("text", ["~/rex", "../rex", "a=b", "/a: b", "[old] photos", "{identifier} toy"])
def test_paths_and_templates_need_no_second_quoting(text):
    assert train(f"data.photos={text}").data.photos == text


def test_quotes_keep_words_that_would_mean_nothing():
    assert train("data.subject='none'").data.subject == "none"
    assert train("data.subject=none").data.subject is None
    assert train('data.photos="  x "').data.photos == "  x "


def test_a_single_value_for_a_list_is_a_list_of_one():
    generate = load_config(GenerateConfig, [], ["prompts=a photo, of: x"])
    assert generate.prompts == ("a photo, of: x",)
    assert train("preview.prompts=[]").preview.prompts == ()
    assert train("preview.prompts=[a, 'b, c']").preview.prompts == ("a", "b, c")


def test_a_mapping_is_replaced_whole_or_extended_by_one_key():
    config = train("adapter.rank_pattern={a: 1, b: 2}", "adapter.rank_pattern.down_blocks.0=3")
    assert config.adapter.rank_pattern == {"a": 1, "b": 2, "down_blocks.0": 3}
    assert train("adapter.rank_pattern={a: 1}", "adapter.rank_pattern={b: 2}").adapter.rank_pattern == {"b": 2}


def test_yes_no_on_off_true_false_are_truth_values():
    for word, truth in {"true": True, "Yes": True, "on": True, "False": False, "no": False, "off": False}.items():
        assert train(f"model.offline={word}").model.offline is truth
    assert train("data.is_live=none").data.is_live is None


@pytest.mark.parametrize(
    ("override", "nearest"),
    [
        ("outptu_dir=x", "output_dir"),
        ("rank=3", "adapter.rank"),
        ("adapter.rnk=3", "adapter.rank"),
        ("adaptr.rank=3", "adapter.rank"),
        ("adapter={rnk: 3}", "adapter.rank"),
        ("training.batchsize=3", "training.batch_size"),
        ("bondary=3", "adapter.boundary"),
        ("optimiser={lr: 1}", "optimizer"),
        ("adapter.rank.x=3", "adapter.rank"),
        ("adapter[rank]=3", "adapter.rank"),
    ],
)
def test_a_typo_names_the_nearest_setting(override, nearest):
    message = error_of(override)
    assert "unknown setting" in message and f"did you mean '{nearest}'?" in message


def test_a_typo_in_a_file_names_the_file_and_the_nearest_setting(tmp_path):
    message = error_of_file(tmp_path, "adapter:\n  rnk: 4\n")
    assert message == "FILE: unknown setting 'adapter.rnk'; did you mean 'adapter.rank'?"


def test_a_name_like_nothing_else_points_to_help():
    assert error_of("zzzzqqq=3").endswith("unknown setting 'zzzzqqq'; --help lists every setting")


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("adapter.rank=three", "adapter.rank: expected a whole number, found 'three'"),
        ("adapter.rank=2.5", "expected a whole number, found '2.5'"),
        ("adapter.rank=true", "expected a whole number"),
        ("adapter.rank=", "expected a whole number"),
        ("adapter.rank=[1]", "expected a whole number, found a list of 1"),
        ("adapter.rank=99999999999999999999999", "expected a whole number"),
        ("optimizer.lr=fast", "expected a number, found 'fast'"),
        ("optimizer.lr=nan", "expected a number"),
        ("optimizer.lr=.inf", "expected a number"),
        ("optimizer.lr=1e400", "expected a number"),
        ("optimizer.betas=[0.9]", "expected 2 values"),
        ("optimizer.betas=[0.9, x]", "expected a number, found 'x'"),
        ("model.offline=maybe", "expected true or false, found 'maybe'"),
        ("adapter.weight_norm=colum", "expected one of column, frobenius, none; found 'colum'; did you mean 'column'?"),
        ("adapter=delora", "is a section, found 'delora'; its settings are method, rank"),
        ("adapter=null", "is a section"),
        ("adapter.rank_pattern=4", "expected a mapping such as {name: value}, found '4'"),
        ("adapter.rank_pattern={a: b}", "a: expected a whole number, found 'b'"),
        ("preview.prompts=null", "expected a list, found nothing"),
    ],
)
def test_a_wrong_type_says_what_was_found_and_what_is_accepted(override, expected):
    message = error_of(override)
    assert message.startswith(f"'{override}': ") and expected in message


@pytest.mark.parametrize("override", ["=3", ".=3", "a..b=3", "adapter.=3", "seed=[1", "seed=*x", "seed='"])
def test_malformed_overrides_are_refused(override):
    assert override in error_of(override)


@pytest.mark.parametrize("text", ["", "\n", "# only comments\n", "---\n", "adapter:\n  # all commented out\n"])
def test_an_empty_file_changes_nothing(text, tmp_path):
    file = tmp_path / "empty.yaml"
    file.write_text(text)
    assert load_config(TrainConfig, [file], []) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("- a\n- b\n", "expected `key: value` settings, found a list of 2"),
        ("just words", "expected `key: value` settings, found 'just words'"),
        ("42", "expected `key: value` settings"),
        ("seed: 1\nseed: 2\n", "line 2: key 'seed' is given twice"),
        ("adapter.rank: 1\nadapter: {rank: 2}\n", "'adapter.rank' is given twice"),
        ("a: &x 1\nb: *x\n", "line 2: aliases (*name) are not accepted"),
        ("<<: {seed: 4}\n", "unknown setting '<<'"),
        ("? [a, b]\n: 1\n", "a key must be one word"),
        ("? {a: b}\n: 1\n", "a key must be one word"),
        ("1: 2\n", "unknown setting '1'"),
        ("seed: !!python/object/apply:os.system ['true']\n", "tags (tag:yaml.org,2002:python/object/apply:os.system)"),
        ("seed: !secret 4\n", "tags (!secret)"),
        ("a: b: c\n", "line 1: mapping values are not allowed here"),
        ("seed: 1\n---\nseed: 2\n", "not valid YAML"),
        ("seed: [1\n", "not valid YAML"),
        ("\x00", "not valid YAML"),
        ("[" * 100_000, "nested deeper than 50"),
        ("? " * 100_000, "nested deeper than 50"),
        ("- " * 100_000, "nested deeper than 50"),
        ("{a: " * 40_000, "nested deeper than 50"),
        ("seed: 2e-2\n", "seed: expected a whole number, found '2e-2'"),
        (b"\xff\xfe\x00", "cannot be read"),
        ("x: " + "1" * MAX_YAML_BYTES, "is no settings file"),
    ],
)
def test_a_bad_file_says_what_and_where(text, expected, tmp_path):
    assert expected in error_of_file(tmp_path, text)


def test_a_yaml_bomb_is_refused_before_it_grows(tmp_path):
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]" for i in range(1, 12)]
    assert "aliases" in error_of_file(tmp_path, "\n".join(lines))


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(UserError, match=r"settings file .*nowhere\.yaml does not exist"):
        load_config(TrainConfig, [tmp_path / ".." / tmp_path.name / "nowhere.yaml"], [])
    with pytest.raises(UserError, match="cannot be read"):
        load_config(TrainConfig, [tmp_path], [])


def test_a_file_may_be_reached_through_dots(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b.yaml").write_text("seed: 9")
    assert load_config(TrainConfig, [tmp_path / "a" / ".." / "b.yaml"], []).seed == 9


def test_read_yaml_gives_plain_values(tmp_path):
    file = tmp_path / "data.yaml"
    file.write_text("{a: 2e-2, b: no, c: '5', d: [1, null, true, -3.5], 7: x, e: 1_000}")
    assert read_yaml(file) == {"a": 0.02, "b": "no", "c": "5", "d": [1, None, True, -3.5], "7": "x", "e": "1_000"}
    assert type(read_yaml(file)["b"]) is str


def test_from_dict_reads_what_to_dict_gives():
    config = train("adapter.rank_pattern={a: 3}", "optimizer.betas=[0.5, 0.6]", "data.subject=dog")
    assert from_dict(TrainConfig, json.loads(json.dumps(to_dict(config))), source="x.json") == config
    with pytest.raises(UserError, match=r"x\.json: adapter\.rank: expected a whole number, found 'True'"):
        from_dict(TrainConfig, {"adapter": {"rank": True}}, source="x.json")


@dataclass(frozen=True, kw_only=True)
class Row:
    name: str = ""
    rate: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Table:
    rows: tuple[Row, ...] = ()
    by_name: dict[str, Row] = field(default_factory=dict)
    grid: dict[str, tuple[Any, ...]] = field(default_factory=dict)
    anything: Any = None
    either: int | str = 0
    numbers: list[float] = field(default_factory=list)


def test_settings_may_hold_rows_mappings_of_rows_and_grids(tmp_path):
    file = tmp_path / "table.yaml"
    file.write_text(
        "rows: [{name: a, rate: 2e-1}, {name: b}]\n"
        "by_name: {x.y: {rate: 3}}\n"
        "grid: {optimizer.lr: [1e-3, 2e-3], adapter.method: delora}\n"
        "anything: {a: [1, no]}\n"
        "either: seven\n"
        "numbers: 4\n"
    )
    table = load_config(Table, [file], ["grid.adapter.rank=[4, 8]"])
    assert table == Table(
        rows=(Row(name="a", rate=0.2), Row(name="b")),
        by_name={"x.y": Row(rate=3.0)},
        grid={"optimizer.lr": (1e-3, 2e-3), "adapter.method": ("delora",), "adapter.rank": (4, 8)},
        anything={"a": [1, "no"]},
        either="seven",
        numbers=[4.0],
    )
    with pytest.raises(UserError, match="rows: unknown setting 'nmae'; did you mean 'name'"):
        load_config(Table, [], ["rows=[{nmae: a}]"])


TYPED_PROMPTS = {
    "{identifier} {class_word} in the snow": ("{identifier} {class_word} in the snow",),
    "{a: b}": ("{a: b}",),
    "[wide shot] a dog": ("[wide shot] a dog",),
    "[wide] a dog [blurred]": ("[wide] a dog [blurred]",),
    '"Rex", a dog': ('"Rex", a dog',),
    '"Rex" and a sign "wet paint"': ('"Rex" and a sign "wet paint"',),
    "'tis a dog": ("'tis a dog",),
    '"a dog"': ("a dog",),
    "a photo, of: x # y": ("a photo, of: x # y",),
    "[a {identifier} dog, {identifier} in the snow]": ("a {identifier} dog", "{identifier} in the snow"),
    "[{identifier}, y]": ("{identifier}", "y"),
    "[a, [b] c]": ("a", "[b] c"),
    """["a {x}, b", 'c, {y}', d {z}]""": ("a {x}, b", "c, {y}", "d {z}"),
    "[a: b, c]": ("a: b", "c"),
    "[]": (),
}


@pytest.mark.parametrize("typed", TYPED_PROMPTS)
def test_a_prompt_is_typed_as_it_is(typed: str):
    assert load_config(GenerateConfig, [], [f"prompts={typed}"]).prompts == TYPED_PROMPTS[typed]


@pytest.mark.parametrize("typed", ['"', "''x''", '"a" b "c"', "[a]", "{class_word}", "'it''s'"])
def test_a_text_setting_takes_what_is_typed(typed: str):
    text = load_config(GenerateConfig, [], [f"negative_prompt={typed}"]).negative_prompt
    assert text == {"'it''s'": "it's"}.get(typed, typed)


FILE = "seed: 3\ndata: {class_word: Hündchen}\n"


@pytest.mark.parametrize(
    "content",
    [
        FILE.encode("utf-8-sig"),
        FILE.encode("utf-16"),
        ("\ufeff" + FILE).encode("utf-16-be"),
        FILE.replace("\n", "\r\n").encode(),
    ],
    ids=["mark", "utf-16", "utf-16-be", "crlf"],
)
def test_settings_files_of_other_systems_are_read(content: bytes, tmp_path: Path):
    file = tmp_path / "a.yaml"
    file.write_bytes(content)
    config = load_config(TrainConfig, [file], [])
    assert (config.seed, config.data.class_word) == (3, "Hündchen")
