"""The package as a library: the README's lines, what a notebook would pass, and imports that stay fast."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

import delora_eval
import delora_sd
from delora_sd.api import settings_of
from delora_sd.errors import UserError
from delora_sd.settings import AdapterConfig, GenerateConfig, TrainConfig

ROOT = Path(__file__).parents[2]


@pytest.mark.filterwarnings("default")
def test_the_python_lines_of_the_readme_run(tiny_sd: Path, photo_folder: Path, tmp_path: Path, monkeypatch):
    """As they stand there, but for a tiny base, other photos, few steps and the bundled judges."""
    monkeypatch.chdir(ROOT)
    (lines,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    training = {"num_steps": 2, "checkpoint_every": 1, "prior_weight": 0}
    small = {"model.base": tiny_sd, "data.photos": photo_folder, "training": training, "adapter.rank": 2}
    for there, here in (
        ('"data.photos=~/rex"', "SMALL"),
        ('"runs/rex"', f'"{tmp_path / "rex"}"'),
        ("images_per_prompt=4", "images_per_prompt=2, num_inference_steps=1"),
        ("score(run)", 'score(run, protocol=["miniature"])'),
    ):
        assert there in lines
        lines = lines.replace(there, here)
    found = {"SMALL": small}
    exec(lines, found)
    assert found["run"] == tmp_path / "rex" and (found["run"] / "adapter").is_dir()
    assert len(found["files"]) == 2 and found["images"].parent == found["run"] / "images"
    assert {"dino", "clip_t", "real_dino"} <= found["totals"].keys()


def test_settings_are_laid_over_each_other_from_left_to_right_then_by_name(tmp_path: Path):
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 1\nadapter: {rank: 2, boundary: 3}\n")
    given = (TrainConfig(output_dir="kept"), file, "adapter.rank=4", {"adapter.boundary": 5})
    config = settings_of(TrainConfig, given, {"seed": 7, "data": {"photos": Path("rex")}})
    assert settings_of(TrainConfig, (), {"adapter": AdapterConfig(rank=3)}).adapter == AdapterConfig(rank=3)
    assert (config.output_dir, config.seed, config.data.photos) == ("kept", 7, "rex")
    assert (config.adapter.rank, config.adapter.boundary) == (4, 5.0)
    assert settings_of(TrainConfig, (str(file),), {}).adapter.rank == 2


@pytest.mark.parametrize(
    ("given", "named", "message"),
    [
        ((), {"adapter": {"rnk": 4}}, "unknown setting 'adapter.rnk'; did you mean 'adapter.rank'"),
        ((), {"output": "x"}, "unknown setting 'output'"),
        (("seed=1", TrainConfig()), {}, "a TrainConfig in first place"),
        ((GenerateConfig(),), {}, "found GenerateConfig"),
        ((7,), {}, "found int"),
        (("rex",), {}, "'rex' is neither a .yaml file nor key=value"),
        ((), {"seed": "soon"}, "seed: expected a whole number"),
    ],
)
def test_what_a_notebook_gets_wrong_is_said_as_on_the_command_line(given, named, message):
    with pytest.raises(UserError) as caught:
        settings_of(TrainConfig, given, named)
    assert message in str(caught.value)


def test_the_functions_can_be_found_and_nothing_else_pretends_to_exist():
    assert {"train", "generate", "__version__"} <= set(dir(delora_sd)) and "score" in dir(delora_eval)
    with pytest.raises(AttributeError, match="'delora_sd' has no attribute 'trian'"):
        delora_sd.trian  # noqa: B018
    with pytest.raises(ImportError):
        from delora_eval import train  # noqa: F401


def test_importing_the_functions_loads_no_heavy_library():
    code = "import sys; from delora_sd import train, generate; from delora_eval import score; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"delora_sd.api", "delora_eval.api"} <= set(loaded)
    assert not {"torch", "diffusers", "transformers", "numpy", "PIL"} & set(loaded)
