"""What combining costs each subject: the scores before and after, of the exact sum and of a combined file."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from delora_eval.retention import SHOWN, measure_retention, render_retention
from delora_eval.scoring.record.score_lines import read_score_lines
from delora_eval.settings import RetentionConfig
from delora_sd.cli.main import main
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, read_json, read_lines, write_json
from delora_sd.settings import AdapterConfig, DataConfig, ModelConfig, OptimizerConfig, TrainConfig, TrainingConfig
from delora_sd.training.recipe import train_pack

pytestmark = pytest.mark.filterwarnings("default")

PROMPTS = ("a {identifier} {class_word}", "a {identifier} {class_word} on the beach")


@pytest.fixture(scope="module")
def runs(tiny_sd: Path, photo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Two subjects, each with an identifier of its own."""
    folder = tmp_path_factory.mktemp("pair")
    configs = [
        TrainConfig(
            output_dir=str(folder / name),
            seed=seed,
            model=ModelConfig(base=str(tiny_sd), offline=True),
            data=DataConfig(photos=str(photo_folder), class_word="dog", identifier=name),
            adapter=AdapterConfig(method="lora", rank=2),
            optimizer=OptimizerConfig(lr=0.3),
            training=TrainingConfig(num_steps=2, prior_weight=0.0),
        )
        for seed, name in enumerate(("rex", "tom"))
    ]
    train_pack(configs)
    return tuple(config.output_dir for config in configs)


def config_of(runs: tuple[str, ...]) -> RetentionConfig:
    small = {"num_inference_steps": 1, "guidance": 1}
    return RetentionConfig(runs=runs, prompts=PROMPTS, protocol="miniature", generate=small)


def test_each_subject_is_scored_alone_and_with_the_other(runs: tuple[str, str], tmp_path: Path, capsys):
    rows = measure_retention(config_of(runs))
    assert {row.run for row in rows} == set(runs) and {row.score for row in rows} <= set(SHOWN)
    assert any(row.alone != row.together for row in rows)
    for row in rows:
        totals = [line for line in read_score_lines(RunFolder(Path(row.run)).scores) if line.prompt is None]
        values = [line.value for line in totals if line.score == row.score]
        assert sorted(values) == sorted([row.alone, row.together])
    sets = [read_lines(file)[0] for file in RunFolder(Path(runs[0])).images.glob("*/images.jsonl")]
    assert sorted(len(line.get("extra_adapters", {})) for line in sets) == [0, 1]
    assert measure_retention(config_of(runs)) == rows, "nothing is drawn or scored twice"
    text = render_retention(rows)
    assert text.splitlines()[0].split() == ["run", "score", "alone", "together", "difference"] and "rex" in text

    both = tmp_path / "both.safetensors"
    assert main(["combine", *runs, f"output={both}", "precision=fp32"]) == 0
    capsys.readouterr()
    words = [f"prompts={json.dumps(PROMPTS)}", "protocol=miniature", "generate={num_inference_steps: 1, guidance: 1}"]
    assert main(["retention", *runs, *words, f"combined={both}", "--json"]) == 0
    for ours, row in zip(json.loads(capsys.readouterr().out)["retention"], rows, strict=True):
        assert (ours["score"], ours["alone"]) == (row.score, row.alone)
        assert ours["together"] == pytest.approx(row.together, abs=0.02), "the file is the exact sum"


def test_runs_that_cannot_be_compared_are_refused_before_anything_is_drawn(runs: tuple[str, str], tmp_path: Path):
    both = config_of(runs)
    for changes, message in (
        ({"runs": runs[:1]}, "runs: 1 given"),
        ({"runs": (runs[0], str(tmp_path))}, "is no finished run"),
        ({"runs": (runs[0], runs[0])}, "answer to 'rex dog'"),
        ({"strengths": (1.0,)}, "1 for 2 runs"),
        ({"strengths": (1.0, 3.0)}, "a strength is 0"),
        ({"strengths": (1.0, 1.0), "combined": "x"}, "has its strengths in it"),
        ({"generate": {"strength": 1}}, "generate: strength is decided here"),
    ):
        with pytest.raises(UserError, match=message):
            measure_retention(replace(both, **changes))
    manifest = RunFolder(Path(runs[1])).manifest
    before = read_json(manifest)
    write_json(manifest, before | {"base": before["base"] | {"fingerprint": "f" * 64}})
    try:
        with pytest.raises(UserError, match="trained on two bases"):
            measure_retention(both)
    finally:
        write_json(manifest, before)
