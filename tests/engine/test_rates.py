"""Counters to rates."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.rates import Rates


@given(st.lists(st.tuples(st.integers(1, 50), st.integers(0, 10_000)), min_size=1, max_size=20))
def test_rates_times_seconds_are_what_was_counted(steps: list[tuple[int, int]]) -> None:
    rates, at, value, counted = Rates(), 100.0, 7, 0.0
    assert rates.of("net", {"in": value}, at) == {}
    for seconds, more in steps:
        at, value = at + seconds, value + more
        counted += rates.of("net", {"in": value}, at)["in"] * seconds
    assert counted == pytest.approx(value - 7)


def test_a_counter_that_fell_or_is_new_has_no_rate() -> None:
    rates = Rates()
    rates.of("disk", {"read": 10, "write": 10}, 1.0)
    assert rates.of("disk", {"read": 3, "write": 14, "trim": 9}, 3.0) == {"write": 2.0}
    assert rates.of("disk", {"read": 4, "write": 14, "trim": 9}, 4.0) == {"read": 1.0, "write": 0.0, "trim": 0.0}
    assert rates.of("disk", {"read": 9}, 4.0) == {}


def test_what_was_not_read_for_once_begins_anew() -> None:
    rates = Rates()
    for group in ("a", "b"):
        rates.of(group, {"x": 1}, 1.0)
    rates.of("a", {"x": 2}, 2.0)
    rates.rest(2.0)
    assert rates.of("b", {"x": 100}, 3.0) == {}
    assert rates.of("a", {"x": 3}, 3.0) == {"x": 1.0}
