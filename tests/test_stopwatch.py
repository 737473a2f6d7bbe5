"""Time by parts: each without those inside it, all of them together the whole, nothing where nobody asks."""

import itertools

import pytest

from delora_sd import stopwatch
from delora_sd.stopwatch import REST, time_of, timing


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that goes on by one second at every look."""
    ticks = itertools.count()
    monkeypatch.setattr(stopwatch.time, "perf_counter", lambda: float(next(ticks)))


@time_of("inner")
def inner() -> str:
    return "done"


def test_a_part_is_counted_without_the_parts_inside_it():
    with timing() as watch, time_of("outer"):
        assert inner() == "done"
        assert inner() == "done"
    # looks: begin, outer opens, inner opens and closes twice, outer closes, end
    assert watch.seconds == {REST: 2.0, "outer": 3.0, "inner": 2.0}


def test_a_part_that_fails_is_closed():
    with timing() as watch:
        with pytest.raises(ValueError, match="no"), time_of("broken"):
            raise ValueError("no")
        inner()
    assert watch.seconds == {REST: 3.0, "broken": 1.0, "inner": 1.0}


def test_nothing_is_counted_where_nobody_asks_and_nothing_of_a_timing_before():
    with timing() as first:
        inner()
    assert inner() == "done"
    with timing() as second:
        pass
    assert first.seconds["inner"] == 1.0 and second.seconds == {REST: 1.0}
