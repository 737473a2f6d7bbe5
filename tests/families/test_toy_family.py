"""A family added from outside, by one file and one row, goes through every stage: nothing else knows families."""

import re
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy_family import NUM_LETTERS, TOY, WIDTH, write_toy

from delora_sd.adapters.exchange.merge.updates import load_updates
from delora_sd.cli.main import main
from delora_sd.diffusion.bases import find_base
from delora_sd.diffusion.families.table import FAMILIES
from delora_sd.diffusion.parts import load_denoiser
from delora_sd.settings import ModelConfig
from delora_sd.training.memory.pack_size import random_condition

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def toy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(FAMILIES, "toy", TOY)
    monkeypatch.setenv("DELORA_SD_CACHE", str(tmp_path / "cache"))
    return write_toy(tmp_path / "toy")


@pytest.mark.filterwarnings("ignore:.*diffusers cannot load it .NotImplementedError:UserWarning")
def test_a_new_family_trains_draws_scores_exports_and_merges(toy: Path, photo_folder: Path, tmp_path: Path):
    run = tmp_path / "run"
    train = ["train", f"model.base={toy}", f"data.photos={photo_folder}", "data.class_word=dog", f"output_dir={run}"]
    train += ["adapter.rank=2", "adapter.init=zero_up", "training.num_class_images=2", "preview.every=2"]
    train += ["preview.num_inference_steps=2", "preview.prompts=[a {identifier} {class_word}]"]
    assert main([*train, "training.num_steps=2", "training.checkpoint_every=1"]) == 0
    saved = (run / "config.yaml").read_text()
    assert re.search(r"target_modules:.*to_mixed", saved, re.DOTALL), "the family's layers are written down"
    assert main([*train, "training.num_steps=3", "training.checkpoint_every=1"]) == 0, "and asked for again by nobody"
    draw = ["generate", str(run), "prompts=a {class_word}", "num_inference_steps=2", "images_per_prompt=1"]
    assert main(draw) == 0
    assert main(["score", str(run), "protocol=miniature"]) == 0
    keys = load_file(run / "export" / "run.kohya.safetensors")
    assert "lora_toy_mixer_to_mixed.lora_up.weight" in keys
    assert main(["merge", str(run), str(tmp_path / "merged"), "precision=fp32"]) == 0
    base = find_base(ModelConfig(base=str(toy)))
    denoiser = load_denoiser(base, device="cpu", dtype=torch.float32)
    merged = load_denoiser(find_base(ModelConfig(base=str(tmp_path / "merged"))), device="cpu", dtype=torch.float32)
    updates = load_updates(run / "adapter", denoiser)
    assert set(updates) == {f"mixer.{name}.weight" for name in TOY.default_layers}
    for name, weight in denoiser.named_parameters():
        expected = weight + updates[name](weight) if name in updates else weight
        torch.testing.assert_close(merged.get_parameter(name), expected, rtol=0, atol=1e-5)


def test_memory_is_measured_without_text(toy: Path):
    condition = random_condition(find_base(ModelConfig(base=str(toy))), torch.device("cpu"))
    assert {name: tuple(value.shape) for name, value in condition.items()} == {"letters": (NUM_LETTERS, WIDTH)}


def test_no_code_asks_for_a_family_by_its_name():
    """What differs between bases is a field of Family: a question anywhere else would be forgotten by the next base."""
    names = "|".join(FAMILIES)
    asked = re.compile(rf"family(\.name)?\s*(==|!=)|family\.name\s+(in|is)\b|(==|!=|\bin)\s*\(?[\"']({names})[\"']")
    files = [*ROOT.glob("delora_sd/**/*.py"), *ROOT.glob("eval/delora_eval/**/*.py")]
    lines = ((file, line) for file in files for line in file.read_text(encoding="utf-8").splitlines())
    assert not [f"{file.relative_to(ROOT)}: {line.strip()}" for file, line in lines if asked.search(line)]
