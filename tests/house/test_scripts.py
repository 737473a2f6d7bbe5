"""The scripts on a fresh machine, with stand-ins for Python, pip and uv: what they call, and what they say."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TOOLS = ("bash", "cat", "cksum", "awk", "df", "dirname", "rm", "mkdir", "cp", "env", "chmod", "sh")

PYTHON = """#!/bin/sh
# Stands in for Python: knows `-c`, `-m venv`, `-m pip`, `-m ensurepip`; writes down what it was asked.
echo "python $*" >>"$CALLS"
case "$1 $2" in
"-c "*) exit "${OLD_PYTHON:-0}" ;;
"-m venv")
    [ -z "$VENV_FAILS" ] || exit 1
    mkdir -p "$3/bin" && cp "$0" "$3/bin/python"
    for tool in delora-sd ruff lint-imports; do
        printf '#!/bin/sh\\necho "%s $*" >>"$CALLS"\\n' "$tool" >"$3/bin/$tool" && chmod +x "$3/bin/$tool"
    done ;;
"-m pip") case "$*" in *install*) exit "${PIP_FAILS:-0}" ;; esac ;;
esac
"""

UV = """#!/bin/sh
echo "uv $*" >>"$CALLS"
case "$1" in
venv) for last; do :; done; "$STUB_PYTHON" -m venv "$last" ;;
pip) exit "${UV_FAILS:-0}" ;;
esac
"""


class Machine:
    """A project folder, a PATH with nothing but stand-ins and the basic tools, and a record of calls."""

    def __init__(self, folder: Path):
        self.project, self.bin, self.calls_file = folder / "a project", folder / "bin", folder / "calls"
        shutil.copytree(ROOT / "scripts", self.project / "scripts")
        shutil.copytree(ROOT / ".ci", self.project / ".ci")
        shutil.copy(ROOT / "pyproject.toml", self.project)
        self.bin.mkdir()
        for tool in TOOLS:
            (self.bin / tool).symlink_to(shutil.which(tool))

    def install(self, name: str, script: str) -> None:
        (self.bin / name).write_text(script)
        (self.bin / name).chmod(0o755)

    def run(self, script: str, *arguments: str, **environment: str) -> tuple[int, str, list[str]]:
        """Returns (exit code, stdout and stderr, calls)."""
        self.calls_file.write_text("")
        variables = {"PATH": str(self.bin), "CALLS": str(self.calls_file), "STUB_PYTHON": str(self.bin / "python3")}
        done = subprocess.run(
            [shutil.which("bash"), script, *arguments],
            cwd=self.project,
            env=variables | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=60,
        )
        calls = [call for call in self.calls_file.read_text().splitlines() if not call.startswith("python -c")]
        return done.returncode, done.stdout, calls


@pytest.fixture
def machine(tmp_path) -> Machine:
    fresh = Machine(tmp_path)
    fresh.install("python3", PYTHON)
    return fresh


def installs(calls: list[str]) -> list[str]:
    return [call for call in calls if " install " in call]


def test_without_a_python_it_says_which_are_needed(tmp_path):
    code, said, _ = Machine(tmp_path).run("scripts/test.sh")
    assert code == 1 and "no Python 3.11, 3.12 or 3.13" in said and "uv" in said


def test_a_python_too_old_is_no_python(machine):
    code, said, _ = machine.run("scripts/test.sh", OLD_PYTHON="1", DELORA_PYTHON="python3")
    assert code == 1 and "no Python 3.11, 3.12 or 3.13 at DELORA_PYTHON=python3" in said


def test_a_python_without_venv_names_the_package_to_install(machine):
    code, said, _ = machine.run("scripts/test.sh", VENV_FAILS="1")
    assert code == 1 and "apt install python3-venv" in said and not (machine.project / ".venv").exists()


def test_set_up_installs_once(machine):
    code, said, calls = machine.run("scripts/setup.sh")
    assert code == 0, said
    (install,) = installs(calls)
    assert "--constraint scripts/constraints.txt --editable .[test]" in install
    assert machine.run("scripts/setup.sh") == (0, "", [])


def test_set_up_installs_again_when_requirements_change_or_the_folder_moves(machine, tmp_path):
    machine.run("scripts/setup.sh")
    with (machine.project / "scripts" / "constraints.txt").open("a") as file:
        file.write("rich==1\n")
    _, _, calls = machine.run("scripts/setup.sh")
    assert len(installs(calls)) == 1 and not any("-m venv" in call for call in calls)
    machine.project = machine.project.rename(tmp_path / "moved")
    _, _, calls = machine.run("scripts/setup.sh")
    assert len(installs(calls)) == 1 and any("-m venv" in call for call in calls)


def test_a_failed_install_says_what_to_do_and_is_tried_again(machine):
    code, said, _ = machine.run("scripts/setup.sh", PIP_FAILS="1")
    assert code == 1 and "No network?" in said and "run the same command again" in said
    code, _, calls = machine.run("scripts/setup.sh")
    assert code == 0 and len(installs(calls)) == 1


def test_uv_is_used_when_present_and_pip_when_uv_fails(machine):
    machine.install("uv", UV)
    code, _, calls = machine.run("scripts/setup.sh")
    assert code == 0 and [call.split()[0] for call in installs(calls)] == ["uv"]
    shutil.rmtree(machine.project / ".venv")
    code, said, calls = machine.run("scripts/setup.sh", UV_FAILS="2")
    assert code == 0 and "trying pip" in said and [call.split()[0] for call in installs(calls)] == ["uv", "python"]


def test_an_environment_of_somebody_else_is_never_deleted(machine):
    foreign = machine.project / ".venv" / "precious"
    foreign.parent.mkdir()
    foreign.write_text("x")
    code, said, _ = machine.run("scripts/setup.sh")
    assert code == 1 and "move it away" in said and foreign.exists()


def test_test_sh_checks_style_imports_and_behaviour(machine):
    code, said, calls = machine.run("scripts/test.sh", "tests/adapters", "-x")
    assert code == 0, said
    checks = [call for call in calls if "venv" not in call and "pip" not in call]
    assert checks[:3] == ["ruff format --check .", "ruff check .", "lint-imports "]
    assert checks[3].startswith("python -m pytest -m not slow and not gpu") and checks[3].endswith("tests/adapters -x")


def test_ci_runs_exactly_test_sh(machine):
    _, _, wanted = machine.run("scripts/test.sh")
    machine.run("scripts/test.sh")
    _, _, second = machine.run("scripts/test.sh")
    assert machine.run(".ci/run")[2] == second and set(second) < set(wanted)


def test_quickstart_benchmarks_reports_and_ends_with_the_page(machine):
    code, said, calls = machine.run("scripts/quickstart.sh", "training.num_steps=3")
    assert code == 0, said
    benchmark = "benchmark configs/benchmark/miniature_quickstart.yaml output_dir=runs/quickstart training.num_steps=3"
    assert [call for call in calls if call.startswith("delora-sd")] == [
        f"delora-sd {benchmark}",
        "delora-sd report runs/quickstart",
    ]
    assert f"Report: {machine.project}/runs/quickstart/report.html" in said


def test_trust_sh_runs_every_part_though_one_fails_and_writes_the_page(machine):
    failing = PYTHON.replace("esac\n", 'esac\ncase "$1" in *fuzz.py) exit 1 ;; esac\n')
    machine.install("python3", failing)
    code, said, calls = machine.run("scripts/trust.sh", "--short", FUZZ_SECONDS="5")
    assert code == 1, said
    parts = [call.partition(" ")[2] for call in calls if call.startswith(("python scripts/", "python -m pytest"))]
    assert parts[0] == "scripts/crash/crash_test.py --record runs/trust/crash.json --short"
    assert parts[1] == "scripts/fuzz/fuzz.py --seconds 5 --record runs/trust/fuzz.json"
    suites = [part for part in parts if part.startswith("-m pytest")]
    assert suites and all("--junitxml runs/trust/" in suite for suite in suites)
    assert parts[-1] == "scripts/crash/trust_page.py runs/trust docs/TRUST.md"


def test_every_suite_of_trust_sh_has_its_line_on_the_page():
    from trust_page import SUITES

    lines = [line.split() for line in (ROOT / "scripts" / "trust.sh").read_text().splitlines()]
    assert {line[1] for line in lines if line[:1] == ["tests"]} == set(SUITES)


def test_figures_take_the_place_of_the_last_ones_and_leave_the_prose(tmp_path):
    import trust_page

    records = tmp_path / "records"
    records.mkdir()
    scene = {"boundaries": 9, "done": {"kills": 2, "crashes": 3}}
    crash = {"seconds": 60.0, "findings": [], "scenes": {"train": scene, "score": scene}}
    (records / "crash.json").write_text(json.dumps(crash))
    (records / "security.xml").write_text(
        '<testsuites><testsuite tests="5" failures="1" errors="1" skipped="1" time="7.5"/></testsuites>'
    )
    page = f"prose\n{trust_page.BEGIN}\nold\n{trust_page.END}\nmore prose\n"
    rows = [*trust_page.crash_rows(records), *trust_page.fuzz_rows(records), *trust_page.suite_rows(records)]
    text = trust_page.put_between(page, trust_page.render(rows))
    assert text.startswith("prose\n") and text.endswith("\nmore prose\n") and "old" not in text
    assert "| 4 kills, 6 crashes | 0 | 60 s | `python scripts/crash/crash_test.py` |" in text
    assert "| Security | 4 tests (1 skipped) | 2 | 8 s | `pytest tests/trust/test_security.py` |" in text


def test_scripts_name_no_host_and_are_strict():
    for script in [*(ROOT / "scripts").glob("*.sh"), ROOT / ".ci" / "run"]:
        text = script.read_text()
        assert "://" not in text, script
        if script.name != "setup.sh":
            assert "set -euo pipefail" in text, script


def test_constraints_hold_every_requirement_at_one_version():
    from packaging.requirements import Requirement

    lines = [line for line in (ROOT / "scripts" / "constraints.txt").read_text().splitlines() if line[:1] != "#"]
    pinned = {Requirement(line).name.lower().replace("_", "-"): Requirement(line) for line in lines}
    assert all(str(requirement.specifier).startswith("==") for requirement in pinned.values())
    assert {"torch", "torchvision", "diffusers", "transformers", "peft", "pytest", "ruff"} <= set(pinned)
