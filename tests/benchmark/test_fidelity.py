"""The fidelity page from benchmarks with known scores: what it claims follows from the numbers."""

import re
import statistics
from pathlib import Path
from types import SimpleNamespace

import pytest

from delora_eval.benchmark.folder import BenchmarkFolder
from delora_eval.benchmark.report.numbers.view import read_view
from delora_eval.fidelity import studies
from delora_eval.fidelity.growth import place_of
from delora_eval.fidelity.search import choose_on_frontier
from delora_eval.fidelity.strength import STRENGTHS, strength_robustness
from delora_sd.config.load import read_yaml
from delora_sd.files.run_folder import write_json

from .fakes import dino_of, fake_stages

SUBJECTS, SEEDS = ("candle", "teapot"), (0, 1)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("fidelity")
    places = ["--output", str(folder / "runs"), "--page", str(folder / "docs" / "FIDELITY.md")]
    few = ["subjects=[candle, teapot]", "seeds=[0, 1]"]
    studies.main([*few, "--studies", *studies.STUDIES, *places], fake_stages)
    return folder


@pytest.fixture(scope="module")
def page(folder) -> Path:
    return folder / "docs" / "FIDELITY.md"


def test_every_claim_stands_with_its_verdict(page):
    text = page.read_text()
    for number in ("Search", "C1", "C2", "C3", "C4", "C5", "C6", "C7", "C8"):
        assert f"| {number} | " in text and f"## {number}: " in text
    assert text.count("2 subjects") >= 1 and "2 seeds" in text
    assert "MINIATURE" in text.upper()


def test_a_difference_is_the_paired_one_and_its_verdict_follows_its_interval(page):
    study = read_yaml(studies.CONFIGS / "miniature_fidelity_test.yaml")
    steps = int(study["train"]["training"]["num_steps"])

    def mean(method: str, subject: str) -> float:
        lr = float(study["methods"][method]["optimizer.lr"])
        return statistics.mean(dino_of(method, subject, seed, steps, lr=lr) for seed in SEEDS)

    expected = statistics.mean(mean("delora", subject) - mean("lora", subject) for subject in SUBJECTS)
    found = re.search(
        r"DeLoRA − LoRA: subject ([+-][0-9.]+) \[([+-][0-9.]+), ([+-][0-9.]+)\] \(([^)]+)\)", page.read_text()
    )
    assert float(found[1]) == pytest.approx(expected, abs=6e-4)
    low, high = float(found[2]), float(found[3])
    assert found[4] == ("no difference shown" if low <= 0 <= high else "higher" if low > 0 else "lower")


def test_the_rule_of_the_search_puts_the_floor_of_the_context_before_the_subject():
    def row(subject: float, context: float) -> SimpleNamespace:
        means = {"dino": subject, "context_accuracy": context}
        return SimpleNamespace(
            scores={name: SimpleNamespace(subjects=SimpleNamespace(mean=value)) for name, value in means.items()}
        )

    copies, good, timid = row(0.9, 0.80), row(0.7, 0.86), row(0.5, 0.99)
    assert choose_on_frontier([copies, good, timid]) is good
    assert choose_on_frontier([copies, row(0.95, 0.7)]) is copies, "none keeps the floor: the one nearest to it"


def test_strength_compares_the_same_subjects_at_the_same_strength(folder, tmp_path):
    """DeLoRA ahead of LoRA by 0.05 in every subject, and behind it in context, at every strength."""
    view = read_view(BenchmarkFolder(folder / "runs" / "test"))
    assert strength_robustness(view, tmp_path) is None, "nothing is drawn yet"
    for cell in view.cells:
        for strength in STRENGTHS:
            gain = 0.05 if cell.method == "delora" else 0.0
            totals = {"dino": 0.5 + gain, "context_accuracy": 0.9 - gain}
            write_json(tmp_path / f"{cell.id}-x{strength:g}" / "totals.json", totals)
    claim = strength_robustness(view, tmp_path)
    assert claim.findings[-1].startswith("DeLoRA at strength 2 − LoRA: subject +0.050 [+0.050, +0.050] (higher)")
    assert claim.verdict == "Holds here in part: 2 of 4 comparisons are higher, 2 lower"
    assert len(claim.table.rows) == 2 * len(STRENGTHS)


@pytest.mark.parametrize(
    ("layer", "place"),
    [
        ("down_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q", ("down 0", "attn1 q")),
        ("mid_block.attentions.0.transformer_blocks.0.attn2.to_out.0", ("mid", "attn2 out")),
        ("up_blocks.1.resnets.0.conv1", None),
    ],
)
def test_a_layer_is_placed_by_its_block_and_projection(layer: str, place):
    assert place_of(layer) == place


def test_what_is_kept_of_a_pair_is_its_summed_score_over_its_score_alone(page):
    """The stand-in scores images drawn with two adapters as those of `theirs`, whatever the method."""
    study = read_yaml(studies.CONFIGS / "miniature_fidelity_merge.yaml")
    steps = int(study["train"]["training"]["num_steps"])
    summed = statistics.mean(dino_of("theirs", subject, 0, 0) for subject in SUBJECTS)
    table = page.read_text().partition("\n## C8")[2].partition("\n## ")[0]
    for method, entry in study["methods"].items():
        lr = float(entry["optimizer.lr"])
        values = [dino_of(method, subject, seed, steps, lr=lr) for subject in SUBJECTS for seed in SEEDS]
        alone = statistics.mean(values)
        row = next(line for line in table.splitlines() if line.startswith(f"| {entry['label']} "))
        assert [cell.strip() for cell in row.split("|")[2:5]] == [
            f"{alone:.3f}",
            f"{summed:.3f}",
            f"{summed / alone:.2f}",
        ]
    assert "intervals over 1 pairs" in table and "DeLoRA − ETHER+: subject" in table


def test_every_image_of_the_page_exists(page):
    files = re.findall(r"\]\((img/[^)]+)\)", page.read_text())
    assert len(files) >= 8
    assert all((page.parent / file).stat().st_size > 500 for file in files)


def test_an_unfinished_study_is_left_out(tmp_path):
    with pytest.raises(SystemExit):
        studies.main(["--output", str(tmp_path), "--page-only"])
