"""Every setting explains itself, and `--help` shows all of them."""

import importlib.util
import subprocess
import sys

import pytest

from delora_sd.cli.main import load_commands, main
from delora_sd.config.load import describe, load_config

SELF_EXPLAINING = {
    # Names that say all there is to say; everything else has a docstring.
    "guidance", "seed", "strength", "precision", "betas", "eps", "warmup_steps", "num_inference_steps", "compile",
    "images_per_prompt", "negative_prompt", "run", "output", "output_dir", "device", "batch_size",
}  # fmt: skip

COMMANDS = load_commands()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_setting_has_a_docstring_or_a_self_explaining_name(name):
    unexplained = [
        key for key, _, doc in describe(COMMANDS[name].config) if not doc and key.split(".")[-1] not in SELF_EXPLAINING
    ]
    assert unexplained == []


@pytest.mark.parametrize("name", COMMANDS)
def test_help_prints_every_setting_with_its_default(name, capsys):
    assert main([name, "--help"]) == 0
    printed = capsys.readouterr().out
    for key, default, doc in describe(COMMANDS[name].config):
        assert f"\n  {key}={default}  (" in printed
        assert doc in " ".join(printed.split()) or not doc


@pytest.mark.parametrize("name", COMMANDS)
def test_what_help_shows_as_a_default_can_be_typed_back(name):
    config = COMMANDS[name].config
    typed = [f"{key}={default}" for key, default, _ in describe(config)]
    assert load_config(config, [], typed) == config()


@pytest.mark.parametrize("name", COMMANDS)
def test_the_example_of_every_command_parses(name, capsys):
    words = COMMANDS[name].example.split()
    assert words[:2] == ["delora-sd", name]
    assert main([*words[1:], "--help"]) == 0


def test_a_dry_run_prints_settings_that_load_back(tmp_path, capsys):
    arguments = ["optimizer.lr=2e-2", "data.class_word=no", "output_dir=runs/x", "preview.prompts=[none, '5']"]
    assert main(["train", *arguments, "--dry-run"]) == 0
    file = tmp_path / "printed.yaml"
    file.write_text(capsys.readouterr().out)
    config = COMMANDS["train"].config
    assert load_config(config, [file], []) == load_config(config, [], arguments)


@pytest.mark.skipif(importlib.util.find_spec("delora_eval") is None, reason="the judge is not installed")
def test_help_and_dry_run_import_no_torch():
    code = (
        "import sys; from delora_sd.cli.main import main\n"
        "for words in (['train', 'seed=1', '--dry-run'], ['train', '--help'], [], ['generate', '-h']):\n"
        "    assert main(words) == 0\n"
        "heavy = {'torch', 'diffusers', 'transformers', 'PIL', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
