from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.loadtest.schedule import Schedule

schedules = st.builds(Schedule, st.integers(0, 2**50), st.floats(0.01, 1_000_000))


def test_messages_are_due_at_equal_distances() -> None:
    start = 1_000_000
    schedule = Schedule(start, 50.0)
    assert [schedule.due(n) - start for n in range(3)] == [0, 20_000, 40_000]
    assert [schedule.ready(start + passed) for passed in (-start, -1, 0, 19_999, 20_000)] == [0, 0, 1, 1, 2]


@given(schedules, st.integers(0, 2**40))
def test_what_is_ready_is_due_and_what_follows_is_not(schedule: Schedule, passed: int) -> None:
    now = schedule.start + passed
    ready = schedule.ready(now)
    assert schedule.due(ready - 1) <= now < schedule.due(ready)


@given(schedules, st.integers(0, 10**6), st.integers(0, 10**6))
def test_a_later_message_is_due_later_and_none_drifts(schedule: Schedule, n: int, more: int) -> None:
    assert schedule.due(n + more) >= schedule.due(n)
    assert schedule.due(n) - schedule.start == pytest.approx(n * 1e6 / schedule.rate, abs=1)
