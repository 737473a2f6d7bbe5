"""What the environment says to accelerate changes no gradient; a broken class image says which file it is."""

from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder
from delora_sd.generation.sources import hash_adapter
from delora_sd.settings import TrainConfig
from delora_sd.training.before.plan import make_accelerator
from delora_sd.training.before.preparation import _load_class_image


@pytest.mark.parametrize(
    "variables",
    [
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "2"},
        {"ACCELERATE_GRADIENT_ACCUMULATION_STEPS": "8", "ACCELERATE_MIXED_PRECISION": "fp16"},
        {"ACCELERATE_MIXED_PRECISION": "bf16", "ACCELERATE_DOWNCAST_BF16": "true"},
    ],
)
def test_variables_of_accelerate_change_no_gradient(variables: dict, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    AcceleratorState._reset_state(reset_partial_state=True)
    accelerator = make_accelerator(TrainConfig(), RunFolder(tmp_path))
    assert (accelerator.gradient_accumulation_steps, accelerator.mixed_precision) == (1, "no")


@pytest.mark.parametrize("content", [b"", b"\x89PNG\r\n\x1a\n" + b"\0" * 30, b"half"])
def test_a_broken_class_image_says_which_file_to_delete(content: bytes, tmp_path: Path):
    (tmp_path / "0001.png").write_bytes(content)
    with pytest.raises(UserError, match=r"0001\.png: .*; it is a class image: delete it, the same command draws it"):
        _load_class_image(tmp_path / "0001.png", (32, 32))


@pytest.mark.parametrize("name", ["._adapter_config.json", "._adapter_model.safetensors", ".notes.json"])
def test_hidden_files_beside_an_adapter_are_no_part_of_it(name: str, tmp_path: Path):
    (tmp_path / "adapter_config.json").write_text("{}")
    before = hash_adapter(tmp_path)
    (tmp_path / name).write_bytes(b"\0\5\x16\7")
    assert hash_adapter(tmp_path) == before
