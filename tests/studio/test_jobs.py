"""Jobs are folders: what was asked for, how it goes, how it ended; they outlive whoever asked."""

import json
import os
import subprocess
import sys
import threading
import time

import pytest

from delora_sd.errors import UserError
from delora_sd.studio.folder import StudioFolder
from delora_sd.studio.jobs import queue, worker
from delora_sd.studio.jobs.job import Job, job_state, last_words, log_tail, read_job
from delora_sd.studio.jobs.queue import add_job, do_again, find_job, list_jobs, stop_job
from delora_sd.studio.jobs.worker import run_job, waiting_job, work

PATIENCE_S = 120.0


@pytest.fixture
def no_worker(monkeypatch):
    """Jobs wait; the test is the worker."""
    monkeypatch.setattr(queue, "start_worker", lambda folder: None)


@pytest.fixture
def python(monkeypatch):
    """Commands are pieces of Python instead of `delora-sd`."""
    monkeypatch.setattr(worker, "PROGRAM", (sys.executable, "-c"))


def add(folder: StudioFolder, *codes: str) -> Job:
    return add_job(folder, title="a job", kind="train", commands=[[code] for code in codes], runs=["rex"])


def until(happens, what: str) -> None:
    """Waits for another process, as long as it takes on a busy machine."""
    ends = time.monotonic() + PATIENCE_S
    while not happens():
        assert time.monotonic() < ends, what
        time.sleep(0.02)


def test_a_job_is_done_when_its_commands_are_and_keeps_what_they_printed(folder, no_worker, python):
    job = add(folder, "print('one')", "print('two')")
    assert job_state(job) == "waiting"
    run_job(job)
    assert job_state(job) == "done" and log_tail(job).split() == ["one", "two"]


def test_a_failing_command_ends_its_job_and_its_last_words_are_shown(folder, no_worker, python):
    job = add(folder, "import sys; print('delora-sd: no photos', file=sys.stderr); sys.exit(2)", "print('never')")
    run_job(job)
    assert job_state(job) == "failed" and last_words(job) == "no photos" and "never" not in log_tail(job)


def test_jobs_run_in_the_order_they_were_asked_for(folder, no_worker, python):
    jobs = [add(folder, f"print({number})") for number in range(12)]
    assert waiting_job(folder.jobs).name == jobs[0].name
    work(folder.jobs)
    assert [job_state(job) for job in jobs] == ["done"] * 12
    assert [job.name for job in list_jobs(folder)] == [job.name for job in reversed(jobs)]


def test_a_stop_is_passed_on_once_and_the_next_command_never_starts(folder, no_worker, python):
    handler = "signal.signal(15, lambda *_: (print('told'), sys.exit(143)))"
    waits = f"import signal, sys, time; {handler}; print('on', flush=True); time.sleep(600)"
    job = add(folder, waits, "print('never')")
    running = threading.Thread(target=run_job, args=(job,))
    running.start()
    until(lambda: "on" in log_tail(job), "the command never began")
    assert job_state(job) == "running"
    (job.folder / "stop").write_text("stop\n")
    running.join(PATIENCE_S)
    assert job_state(job) == "stopped" and log_tail(job).count("told") == 1 and "never" not in log_tail(job)


def test_a_job_that_waits_is_taken_off_and_never_starts(folder, no_worker, python):
    job = add(folder, "print('never')")
    stop_job(folder, job.name)
    work(folder.jobs)
    assert job_state(job) == "stopped" and not job.log.exists()
    with pytest.raises(UserError, match="has ended"):
        stop_job(folder, job.name)


def test_what_was_stopped_is_done_again_by_the_same_commands(folder, no_worker, python):
    job = add(folder, "print('again')")
    with pytest.raises(UserError, match="not ended"):
        do_again(folder, job.name)
    stop_job(folder, job.name)
    again = do_again(folder, job.name)
    assert again.commands == job.commands and again.runs == job.runs and again.name != job.name
    work(folder.jobs)
    assert job_state(again) == "done"


def test_a_job_goes_on_without_its_worker_and_can_still_be_stopped(folder, no_worker, python, tmp_path):
    job = add(folder, "import time; print('on', flush=True); time.sleep(600)")
    code = f"""
import pathlib
from delora_sd.studio.jobs import worker
worker.PROGRAM = {worker.PROGRAM!r}
worker.work(pathlib.Path({str(folder.jobs)!r}))
"""
    own = subprocess.Popen([sys.executable, "-c", code])
    until(lambda: "on" in log_tail(job), "the command never began")
    own.kill()
    own.wait()
    assert job_state(job) == "running"
    stop_job(folder, job.name)
    until(lambda: job_state(job) != "running", "the command was not stopped")
    assert job_state(job) == "interrupted"


def test_a_second_worker_leaves_the_queue_to_the_first(folder, no_worker, python):
    job = add(folder, "print('once')")
    with worker.hold(folder.jobs / worker.WORKER_LOCK, guarding=folder.jobs, setting="jobs"):
        done = subprocess.run(
            [sys.executable, "-m", "delora_sd.studio.jobs.worker", str(folder.jobs)], capture_output=True, timeout=120
        )
    assert done.returncode == 0 and job_state(job) == "waiting"


def test_a_real_command_runs_in_a_process_of_its_own(folder):
    job = add_job(folder, title="who are you?", kind="train", commands=[["--version"]])
    until(lambda: job_state(job) not in ("waiting", "running"), "the job never ended")
    assert job_state(job) == "done" and "delora_sd" in log_tail(job)


@pytest.mark.parametrize(
    "record", ["", "[]", '{"title": 1}', '{"title": "x", "kind": "y", "commands": "rm", "runs": []}']
)
def test_a_damaged_job_hides_no_other(folder, no_worker, record):
    good = add(folder, "1")
    bad = folder.jobs / "0000-bad"
    bad.mkdir()
    (bad / "job.json").write_text(record)
    assert [job.name for job in list_jobs(folder)] == [good.name] and waiting_job(folder.jobs).name == good.name
    with pytest.raises(UserError):
        read_job(bad)
    with pytest.raises(UserError, match="no job"):
        find_job(folder, "../..")


def test_a_job_says_what_it_is_made_of(folder, no_worker):
    job = add(folder, "1")
    record = json.loads((job.folder / "job.json").read_text())
    assert record == {"title": "a job", "kind": "train", "commands": [["1"]], "runs": ["rex"]}
    assert os.listdir(job.folder) == ["job.json"]
