"""A resolved config, written and read back, is the same config: `config.yaml` alone reproduces a run."""

import types
from dataclasses import is_dataclass
from typing import Any, Literal, Union, get_args, get_origin

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from delora_sd.config.load import from_dict, load_config, to_dict, to_yaml
from delora_sd.config.words import hints
from delora_sd.settings import ExportConfig, GenerateConfig, TrainConfig

TRICKY = [
    "none", "null", "~", "", "no", "5", "2e-2", "a: b", "#x", "*x", "&x", "[a]", "{a}", "'", '"', " x ", "a\nb", "\t",
    "- a", "---", "!x", "${x}", "???", "é 🐕", "\x85", "\u2028", "\ufeff", "<<", "a\\b", "%x", "@x", "`x",
]  # fmt: skip


def values_of(hint: Any) -> st.SearchStrategy:
    """Returns a strategy of every value the declared type allows."""
    origin, arms = get_origin(hint), get_args(hint)
    if is_dataclass(hint):
        return configs(hint)
    if origin in (Union, types.UnionType):
        return st.one_of([values_of(arm) for arm in arms])
    if origin is Literal:
        return st.sampled_from(arms)
    if origin is tuple and arms[-1] is Ellipsis:
        return st.lists(values_of(arms[0]), max_size=3).map(tuple)
    if origin is tuple:
        return st.tuples(*map(values_of, arms))
    if origin is dict:
        return st.dictionaries(values_of(str), values_of(arms[1]), max_size=3)
    text = st.sampled_from(TRICKY) | st.text(
        st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12
    )
    return {
        str: text,
        bool: st.booleans(),
        int: st.integers(-(10**9), 10**9),
        float: st.floats(allow_nan=False, allow_infinity=False),
        types.NoneType: st.none(),
    }[hint]


def configs(schema: type) -> st.SearchStrategy:
    return st.builds(schema, **{name: values_of(hint) for name, hint in hints(schema).items()})


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(config=st.one_of([configs(schema) for schema in (TrainConfig, GenerateConfig, ExportConfig)]))
def test_yaml_round_trip(config, tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config), encoding="utf-8")
    assert load_config(type(config), [file], []) == config


@settings(max_examples=50, deadline=None)
@given(config=configs(TrainConfig))
def test_dict_round_trip(config):
    assert from_dict(TrainConfig, to_dict(config), source="dict") == config


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60) | st.text("{}[]:-,&*!'\"#\n ?<|>%@seed", max_size=40).map(str.encode))
def test_any_bytes_are_settings_or_one_clear_line(content, tmp_path):
    from delora_sd.errors import UserError

    file = tmp_path / "fuzz.yaml"
    file.write_bytes(content)
    try:
        load_config(TrainConfig, [file], [])
    except UserError as error:
        assert str(file) in str(error) and "\n" not in str(error)
