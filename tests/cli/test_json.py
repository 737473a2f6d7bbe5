"""What programs read: with --json standard output is one JSON document and nothing else; exit codes stay."""

import json
import math
from pathlib import Path

import pytest

from delora_eval.benchmark.run.outlook.status import describe_status
from delora_eval.benchmark.settings import StatusConfig
from delora_sd.cli import doctor
from delora_sd.cli.command import to_json
from delora_sd.cli.doctor import Finding
from delora_sd.cli.main import load_commands, main
from delora_sd.errors import UserError
from delora_sd.files.run_folder import RunFolder, write_json, write_text
from delora_sd.files.run_state import read_run_state


def read_json_of(capsys, *words: str, code: int = 0) -> dict:
    capsys.readouterr()  # what the fixtures said
    assert main([*words, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def test_the_methods_are_the_table_as_data(capsys):
    found = read_json_of(capsys, "methods", "model.base=miniature")
    rows = {row["method"]: row for row in found["methods"]}
    assert found["base"] == "miniature" and rows["delora"]["exact_rank"] == 32 and rows["dora"]["exact_rank"] is None
    assert rows["lora"]["lr"] == 6e-4


@pytest.mark.filterwarnings("default")
def test_scores_are_the_totals_with_what_they_depend_on(finished_run: Path, capsys):
    found = read_json_of(capsys, "score", str(finished_run), "protocol=miniature")
    by_name = {row["score"]: row for row in found["scores"]}
    assert Path(found["output"]) == finished_run / "scores.jsonl"
    row = by_name["clip_t"]
    assert row["protocol"] == "miniature" and row["weights"] and row["random_base"] and "prompt" not in row


def test_the_doctor_tells_a_program_and_its_exit_code_says_whether_the_main_job_runs(monkeypatch, capsys):
    broken = Finding(topic="t", name="torch", state="broken", found="too old", advice="pip install torch")
    monkeypatch.setattr(doctor, "load_checks", lambda: [lambda config: [broken]])
    (finding,) = read_json_of(capsys, "doctor", code=2)["findings"]
    assert finding == {
        "topic": "t", "name": "torch", "state": "broken", "found": "too old", "advice": "pip install torch",
    }  # fmt: skip


def test_the_status_of_a_run_is_what_its_folder_says(finished_run: Path, tmp_path: Path, capsys):
    found = read_json_of(capsys, "status", str(finished_run))
    assert (found["state"], found["step"], found["num_steps"], found["checkpoint"]) == ("finished", 2, 2, 2)
    assert found["holder"] is None and math.isfinite(found["loss"])

    run = RunFolder(tmp_path / "tom")
    write_text(run.config, (finished_run / "config.yaml").read_text())
    assert read_run_state(run).state == "stopped" and read_run_state(run).checkpoint is None
    with run.lock():
        assert read_run_state(run).state == "training" and "process" in read_run_state(run).holder
        assert main(["status", str(run.path)]) == 0
        assert "training, step 0 of 2, with process" in capsys.readouterr().out
    write_json(run.failure, {"step": 1, "reason": "the loss was not finite"})
    described = describe_status(StatusConfig(folder=str(run.path)))
    assert (described["state"], described["reason"], described["holder"]) == ("failed", "the loss was not finite", None)
    with pytest.raises(UserError, match="no run folder"):
        read_run_state(RunFolder(tmp_path / "nothing"))


def test_other_commands_refuse_the_flag_and_say_which_have_it(capsys):
    able = [name for name, command in load_commands().items() if command.run_json]
    assert {"status", "doctor", "methods", "score"} <= set(able)
    for words in (["report", "x"], ["score", "x", "--dry-run"]):
        assert main([*words, "--json"]) == 2
        said = capsys.readouterr()
        assert not said.out and "only of" in said.err and all(name in said.err for name in able)


def test_what_is_no_number_is_null_and_paths_are_text():
    assert json.loads(to_json({"a": [float("nan"), (1.5, Path("x"))]})) == {"a": [None, [1.5, "x"]]}
