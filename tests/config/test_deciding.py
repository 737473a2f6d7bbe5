"""Old run folders mean what they meant, whatever settings and defaults later versions bring."""

from dataclasses import replace
from pathlib import Path

import pytest

from delora_sd.config import deciding
from delora_sd.config.load import flatten, load_config, read_yaml, to_yaml
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.settings import OptimizerConfig, TrainConfig
from delora_sd.training.before.door import check_resume, resolve_places

FIRST_EDITION = Path(__file__).parents[1] / "fixtures" / "first_edition" / "train_defaults.yaml"


def run_of_an_older_version(folder: Path, *, lacking: str, config: TrainConfig) -> RunFolder:
    """Writes a config.yaml without the line of a setting that did not exist yet."""
    lines = [line for line in to_yaml(config).splitlines() if not line.strip().startswith(f"{lacking}:")]
    run = RunFolder(folder)
    run.config.write_text("\n".join(lines))
    return run


def dotted(settings: dict) -> list[str]:
    """Returns the dotted keys that stand in a settings file."""
    sections = {key for key, value in settings.items() if isinstance(value, dict)}
    return [key for key in settings if key not in sections] + [f"{s}.{key}" for s in sections for key in settings[s]]


def test_first_defaults_are_those_of_the_first_edition():
    """Whoever changes a default in settings.py puts the value before into FIRST_DEFAULTS, or old cells train again."""
    first = flatten(TrainConfig()) | deciding.FIRST_DEFAULTS
    then = flatten(load_config(TrainConfig, [FIRST_EDITION], []))
    known = dotted(read_yaml(FIRST_EDITION))
    assert len(known) > 50
    assert {key: first[key] for key in known} == {key: then[key] for key in known}


def test_settings_that_decide_nothing_name_nothing():
    config = TrainConfig(output_dir="runs/dog")
    free = replace(config, training=replace(config.training, log_every=3), preview=replace(config.preview, every=7))
    assert deciding.differing_settings(free) == {}
    assert deciding.differing_settings(replace(free, seed=1)) == {"seed": 1}


def test_a_setting_that_did_not_exist_yet_counts_as_the_same(tmp_path):
    run = run_of_an_older_version(tmp_path, lacking="schedule", config=TrainConfig())
    assert deciding.read_run_settings(run.config) == TrainConfig()
    check_resume(run, resolve_places(TrainConfig()))


def test_a_setting_that_did_not_exist_yet_means_what_was_done_then(tmp_path, monkeypatch):
    """As if runs without a schedule had been linear, and the default had come as constant."""
    monkeypatch.setitem(deciding.FIRST_DEFAULTS, "optimizer.schedule", "linear")
    run = run_of_an_older_version(tmp_path, lacking="schedule", config=TrainConfig())
    assert deciding.read_run_settings(run.config).optimizer.schedule == "linear"
    check_resume(run, resolve_places(TrainConfig(optimizer=OptimizerConfig(schedule="linear"))))
    with pytest.raises(UserError, match=r"was begun with optimizer\.schedule=linear, now it is constant"):
        check_resume(run, resolve_places(TrainConfig()))
    run.config.write_text(to_yaml(TrainConfig()))
    assert deciding.read_run_settings(run.config) == TrainConfig(), "what the file says is never overruled"
