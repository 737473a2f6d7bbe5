"""The fidelity page from six benchmarks with known scores: what it claims follows from the numbers."""

import re
import statistics
from pathlib import Path

import pytest

from delora_eval.fidelity import studies
from delora_sd.config.load import read_yaml

from .fakes import dino_of, fake_stages

SUBJECTS, SEEDS = ("candle", "teapot"), (0, 1)


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity")
    places = ["--output", str(folder / "runs"), "--page", str(folder / "docs" / "FIDELITY.md")]
    studies.main(["subjects=[backpack]", "--studies", "search", *places], fake_stages)
    few = ["subjects=[candle, teapot]", "seeds=[0, 1]"]
    studies.main([*few, "--studies", "rates", "long", "norm", "starts", "map", *places], fake_stages)
    return folder / "docs" / "FIDELITY.md"


def test_every_claim_stands_with_its_verdict(page):
    text = page.read_text()
    for number in ("Search", "C1", "C2", "C3", "C4", "C6", "C7", "Map"):
        assert f"| {number} | " in text and f"## {number}: " in text
    assert text.count("2 subjects") >= 1 and "2 seeds" in text
    assert "MINIATURE" in text.upper()


def test_a_difference_is_the_paired_one_and_its_verdict_follows_its_interval(page):
    study = read_yaml(studies.CONFIGS / "miniature_fidelity_rates.yaml")
    steps = int(study["train"]["training"]["num_steps"])

    def mean(method: str, subject: str) -> float:
        lr = float(study["methods"][method]["optimizer.lr"])
        return statistics.mean(dino_of(method, subject, seed, steps, lr=lr) for seed in SEEDS)

    expected = statistics.mean(mean("delora", subject) - mean("lora", subject) for subject in SUBJECTS)
    found = re.search(
        r"DeLoRA ×1 − LoRA ×1: subject ([+-][0-9.]+) \[([+-][0-9.]+), ([+-][0-9.]+)\] \(([^)]+)\)", page.read_text()
    )
    assert float(found[1]) == pytest.approx(expected, abs=6e-4)
    low, high = float(found[2]), float(found[3])
    assert found[4] == ("no difference shown" if low <= 0 <= high else "higher" if low > 0 else "lower")


def test_every_image_of_the_page_exists(page):
    files = re.findall(r"\]\((img/[^)]+)\)", page.read_text())
    assert len(files) >= 8
    assert all((page.parent / file).stat().st_size > 500 for file in files)


def test_an_unfinished_study_is_left_out(tmp_path):
    with pytest.raises(SystemExit):
        studies.main(["--output", str(tmp_path), "--page-only"])
