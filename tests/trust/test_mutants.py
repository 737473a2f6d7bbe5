"""The table of mutants is up to date; that each is caught takes minutes, and is a slow test."""

from pathlib import Path

import pytest

import mutants
from mutant_table import MUTANTS, Mutant

ROOT = Path(__file__).parents[2]


def test_every_mutants_line_is_where_the_table_says():
    assert len(MUTANTS) >= 40
    assert [problem for mutant in MUTANTS if (problem := mutants.find_problem(ROOT, mutant))] == []
    assert not [mutant for mutant in MUTANTS if mutant.old == mutant.new or not mutant.tests]


def test_a_line_that_is_gone_or_stands_twice_is_said(tmp_path):
    (tmp_path / "a.py").write_text("x = 1\ny = 1\n")
    (tmp_path / "test_a.py").touch()
    found = {"file": "a.py", "old": "x = 1", "new": "x = 2", "tests": ("test_a.py::test_x",)}
    assert mutants.find_problem(tmp_path, Mutant(**found)) is None
    for changes, message in (
        ({"old": "z = 1"}, "stands there 0 times"),
        ({"old": "= 1"}, "stands there 2 times"),
        ({"file": "b.py"}, "no such file"),
        ({"tests": ("test_b.py",)}, "no test file test_b.py"),
    ):
        assert message in mutants.find_problem(tmp_path, Mutant(**found | changes))


@pytest.mark.slow
def test_every_mutant_is_caught():
    assert mutants.main([]) == 0
