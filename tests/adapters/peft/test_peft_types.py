"""PEFT's types: tried from attaching to merging before a model loads, and the page that lists them."""

import json
from importlib.metadata import version

import pytest
from adapter_cases import config_of, small_unet

import peft_types
from delora_sd.adapters.attach import check_layers
from delora_sd.errors import UserError


def test_the_page_lists_what_works_and_what_is_refused():
    page = peft_types.PAGE.read_text(encoding="utf-8")
    if f"PEFT {version('peft')}" not in page:
        pytest.skip(f"ANOTHER PEFT than docs/PEFT_TYPES.md is about: {version('peft')}")
    found = peft_types.try_types()
    listed = {}
    for line in page.splitlines():
        if (line.startswith("| ") and line.count("|") == 4 and " works |" in line) or " refused |" in line:
            name, verdict, _ = (cell.strip() for cell in line.strip("|").split("|"))
            listed[name] = verdict
    assert listed == {name: "refused" if reason else "works" for name, reason in found.items()}


def _check(tmp_path, **values) -> None:
    (tmp_path / "peft.json").write_text(json.dumps(values))
    check_layers(config_of("peft", peft_config=str(tmp_path / "peft.json")), small_unet())


@pytest.mark.parametrize(
    "values",
    [
        {"peft_type": "LOHA", "r": 4},
        {"peft_type": "IA3", "feedforward_modules": []},
        {"peft_type": "LOKR", "target_modules": ["conv1", "to_q"]},
        {"peft_type": "LORA", "target_modules": ".*attn1.to_(q|k)", "use_dora": True},
    ],
)
def test_what_works_is_let_in(tmp_path, values):
    _check(tmp_path, **values)


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"peft_type": "LN_TUNING", "target_modules": ["norm1"]}, "selects LayerNorm layers; only Linear and Conv2d"),
        ({"peft_type": "LOHA", "target_modules": ["to_z"]}, "its target_modules select no layer of the UNet"),
        ({"peft_type": "OFT", "r": 0, "oft_block_size": 7}, "PEFT refuses"),
        ({"peft_type": "POLY"}, "this PEFT configuration cannot be"),
    ],
)
def test_what_cannot_work_is_refused_before_a_model_loads(tmp_path, values, reason):
    with pytest.raises(UserError, match=reason):
        _check(tmp_path, **values)
