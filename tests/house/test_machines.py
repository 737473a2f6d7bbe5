"""Machines without a person: the job array with stand-ins for SLURM, and a Dockerfile that names what is there."""

import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest

from delora_sd.cli.main import load_commands, parse

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "cluster" / "benchmark.sbatch"

WORKING = '#!/bin/sh\necho "delora-sd $*" >>"$CALLS"\nexit "$CODE"\n'
STOPPED_BY_THE_QUEUE = """#!/bin/sh
# The queue signals the batch shell; whoever works writes its checkpoint and ends with 143.
echo "delora-sd $*" >>"$CALLS"
trap 'kill "$!"; echo checkpoint >>"$CALLS"; exit 143' TERM
kill -TERM "$PPID"
sleep 60 & wait "$!"
"""


def run_job(folder: Path, work: str, *, code: int = 0) -> tuple[int, list[str]]:
    """Returns (exit code, calls) of the third of four jobs."""
    scripts = {"delora-sd": work, "scontrol": '#!/bin/sh\necho "scontrol $*" >>"$CALLS"\n'}
    for name, text in scripts.items():
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    slurm = {"ARRAY_JOB_ID": "77", "ARRAY_TASK_ID": "12", "ARRAY_TASK_MIN": "10", "ARRAY_TASK_COUNT": "4"}
    slurm |= {"SUBMIT_DIR": str(folder), "CPUS_PER_TASK": "8"}
    variables = {f"SLURM_{key}": value for key, value in slurm.items()} | {"CODE": str(code)}
    paths = {"PATH": f"{folder}:{os.environ['PATH']}", "CALLS": str(folder / "calls")}
    words = ["bash", str(SCRIPT), "grid.yaml", "output_dir=x"]
    done = subprocess.run(words, env=variables | paths, capture_output=True, text=True, timeout=60)
    return done.returncode, (folder / "calls").read_text().splitlines()


def test_a_job_of_the_array_takes_its_share_and_ends_as_its_work_does(tmp_path: Path):
    assert run_job(tmp_path, WORKING) == (0, ["delora-sd benchmark grid.yaml output_dir=x shard=2/4"])
    code, calls = run_job(tmp_path, WORKING, code=2)
    assert code == 2 and not any(call.startswith("scontrol") for call in calls)


def test_a_job_whose_time_is_over_writes_its_checkpoint_and_is_queued_again(tmp_path: Path):
    code, calls = run_job(tmp_path, STOPPED_BY_THE_QUEUE)
    assert code == 143 and calls[1:] == ["checkpoint", "scontrol requeue 77_12"]


@pytest.fixture(scope="module")
def instructions() -> list[tuple[str, str]]:
    """(INSTRUCTION, rest) of the Dockerfile, continued lines joined."""
    text = re.sub(r"(?m)^#.*\n", "", (ROOT / "Dockerfile").read_text()).replace("\\\n", " ")
    return [tuple(line.split(maxsplit=1)) for line in text.splitlines() if line.strip()]


def test_the_image_is_built_of_files_that_are_there_and_sent(instructions):
    sent = {line.removeprefix("!") for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] == "!"}
    copied = [word for name, rest in instructions if name == "COPY" for word in rest.split()[:-1]]
    assert copied and set(copied) == sent
    assert all((ROOT / path).exists() for path in copied)


def test_every_stage_is_one_that_the_variants_name(instructions):
    stages = [rest.split(" AS ")[1] for name, rest in instructions if name == "FROM" and " AS " in rest]
    assert [rest for name, rest in instructions if name == "FROM"][-1] == "torch-${VARIANT}"
    assert {"torch-cpu", "torch-cuda"} <= set(stages)
    installs = [rest for name, rest in instructions if name == "RUN" and "pip install" in rest]
    assert all("--constraint scripts/constraints.txt" in rest for rest in installs)


def test_the_container_runs_as_nobody_special_keeps_its_cache_and_says_how_it_is(instructions):
    last = dict(instructions)
    order = [name for name, _ in instructions]
    assert last["USER"] == "delora" and last["VOLUME"] == "/cache" and last["ENTRYPOINT"] == '["delora-sd"]'
    assert max(i for i, name in enumerate(order) if name == "RUN") < order.index("USER"), "nothing is installed later"
    check = shlex.split(last["HEALTHCHECK"].partition(" CMD ")[2])
    name, words = check[1], check[2 : check.index("||")]
    config = parse(load_commands()[name], words)
    assert check[0] == "delora-sd" and check[-2:] == ["exit", "1"] and load_commands()[name].run_json
    assert not config.self_test and config.model.offline
