"""Several processes, and processes that die: claims, shards, ranks, kill -9. Every process here is our own child."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from delora_eval.benchmark.folder import read_plan
from delora_eval.benchmark.run.workers import claims as claims_module
from delora_eval.benchmark.run.workers.claims import Claims
from delora_eval.benchmark.run.workers.launchers import run_benchmark
from delora_eval.benchmark.settings import BenchmarkConfig
from delora_sd.config.load import load_config, to_yaml
from delora_sd.errors import UserError

from ..fakes import SECONDS, fake_stages, idle_stages, trainings, undivided

WORKER = Path(__file__).parents[1] / "worker.py"
NUM_KILLS = 10


@pytest.fixture
def config_file(make_config, tmp_path) -> Path:
    file = tmp_path / "grid.yaml"
    file.write_text(to_yaml(make_config(title="Grid", drift=False)))
    return file


def run_worker(
    config_file: Path, overrides: Sequence[str] = (), seconds: float = 0.01, said: Path | None = None
) -> None:
    """What worker.py does, in a fork of a process that has loaded everything already; it says it into a file."""
    os.environ[SECONDS] = str(seconds)
    if said is not None:
        with said.open("w") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
    run_benchmark(load_config(BenchmarkConfig, [config_file], list(overrides)), fake_stages)


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(
    ["delora_eval.benchmark.run.workers.launchers", "delora_eval.choice.choose", "torch", "pytest"]
)


def count_files(folder: Path) -> int:
    return sum(len(files) for _, _, files in os.walk(folder))


def wait_until(is_true: Callable[[], bool], *, at_most_seconds: float = 120) -> None:
    """Returns when the condition holds: soon on a fast machine, later on a busy one."""
    deadline = time.monotonic() + at_most_seconds
    while not is_true():
        assert time.monotonic() < deadline, f"not within {at_most_seconds} seconds"
        time.sleep(0.002)


def start(*arguments: Any) -> multiprocessing.Process:
    process = FORKS.Process(target=run_worker, args=arguments)
    process.start()
    return process


def finish(process: multiprocessing.Process) -> None:
    process.join(timeout=120)
    assert process.exitcode == 0


def table(folder: Path) -> str:
    return (folder / "tables" / "scores.csv").read_text()


def expected_table(make_config, tmp_path) -> str:
    """The table of an undisturbed run of the same grid in another folder."""
    config = make_config(title="Grid", drift=False, output_dir=str(tmp_path / "undisturbed" / "bench"))
    return table(run_benchmark(config, fake_stages).path)


def test_a_claim_is_held_by_one_worker_until_it_gives_it_back(tmp_path):
    first, second = Claims(folder=tmp_path), Claims(folder=tmp_path)
    assert first.acquire("cell") and not second.acquire("cell")
    assert second.holder("cell") == f"process {os.getpid()} on {claims_module.socket.gethostname()}"
    first.release("cell")
    assert second.acquire("cell") and not first.acquire("cell")


def test_the_claim_of_a_dead_process_is_free_at_once(tmp_path):
    code = (
        f"from delora_eval.benchmark.run.workers.claims import Claims; from pathlib import Path; import os; "
        f"Claims(folder=Path({str(tmp_path)!r})).acquire('cell'); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (tmp_path / "cell.claim").exists()
    assert Claims(folder=tmp_path).acquire("cell")


def test_the_claim_of_another_machine_is_free_after_its_lease(tmp_path, monkeypatch):
    monkeypatch.setattr(claims_module, "_machine", lambda: "elsewhere/1")
    assert Claims(folder=tmp_path).acquire("cell")
    monkeypatch.setattr(claims_module, "_machine", lambda: "here/1")
    here = Claims(folder=tmp_path, lease_seconds=100)
    assert not here.acquire("cell")
    old = time.time() - 200
    os.utime(tmp_path / "cell.claim", (old, old))
    assert here.acquire("cell")


def test_a_heartbeat_keeps_a_claim_of_another_machine(tmp_path, monkeypatch):
    """The claim is made older than its lease; the next beat makes it young again."""
    monkeypatch.setattr(claims_module, "HEARTBEAT_SECONDS", 0.01)
    worker = Claims(folder=tmp_path, lease_seconds=1000)
    worker.acquire("cell")
    claim, old = tmp_path / "cell.claim", time.time() - 5000
    with worker.heartbeat():
        os.utime(claim, (old, old))
        wait_until(lambda: claim.stat().st_mtime > old + 1)
        monkeypatch.setattr(claims_module, "_machine", lambda: "elsewhere/1")
        assert not Claims(folder=tmp_path, lease_seconds=1000).acquire("cell")
    assert not claim.exists()


def test_killed_ten_times_the_table_is_the_same_and_nothing_is_trained_twice(make_config, config_file, tmp_path):
    """Each process is killed after it has written a few more files, wherever that happens to be in its work."""
    generator = random.Random(0)
    folder = tmp_path / "bench"
    num_killed = 0
    for _ in range(NUM_KILLS):
        enough = count_files(folder) + generator.randint(1, 12)
        process = start(config_file)
        wait_until(lambda process=process, enough=enough: count_files(folder) >= enough or not process.is_alive())
        with undivided(folder):
            process.kill()
            process.join()
        num_killed += process.exitcode == -signal.SIGKILL
    assert num_killed > NUM_KILLS / 2
    finish(start(config_file))
    assert len(trainings(folder)) == 8 == len(set(trainings(folder)))
    assert table(folder) == expected_table(make_config, tmp_path)
    assert not list(folder.rglob(".partial-*"))


def test_two_shards_take_disjoint_cells_and_give_the_same_table(make_config, config_file, tmp_path):
    said = [tmp_path / f"said-{index}.txt" for index in range(2)]
    for worker in [start(config_file, [f"shard={index}/2", "pack=1"], 0.1, said[index]) for index in range(2)]:
        finish(worker)
    outputs = [file.read_text() for file in said]
    folder = tmp_path / "bench"
    assert len(trainings(folder)) == 8 == len(set(trainings(folder)))
    assert table(folder) == expected_table(make_config, tmp_path)
    ended = [line.partition(":")[0] for output in outputs for line in output.splitlines() if ": finished;" in line]
    assert len(ended) == 8 == len(set(ended))
    assert all(": finished;" in output for output in outputs)


def test_ranks_of_torchrun_share_the_cells(make_config, config_file, tmp_path):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(WORKER)]
    environment = os.environ | {SECONDS: "0.05", "OMP_NUM_THREADS": "1"}
    arguments = [str(config_file), "launcher=accelerate", "pack=1"]
    done = subprocess.run(command + arguments, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "bench"
    assert len(trainings(folder)) == 8 == len(set(trainings(folder)))
    assert table(folder) == expected_table(make_config, tmp_path)


def test_many_processes_without_a_launcher_are_told_which_to_use(make_config, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="add launcher=accelerate"):
        run_benchmark(make_config(), fake_stages)


def test_second_call_does_no_work_and_changes_no_file(make_config):
    config: BenchmarkConfig = make_config()
    folder = run_benchmark(config, fake_stages)
    before = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    run_benchmark(config, idle_stages)
    after = {path: path.stat().st_mtime_ns for path in folder.path.rglob("*") if path.is_file()}
    assert after == before
    assert len(read_plan(folder)["test"]) == 8
