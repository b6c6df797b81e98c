from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from transport.token_bucket import TokenBucket


def test_a_seconds_worth_at_once_then_the_rate() -> None:
    bucket = TokenBucket(10.0, 0.0)
    assert [bucket.take(10.0, 0.0) for _ in range(10)] == [0.0] * 10
    assert bucket.take(10.0, 0.0) == pytest.approx(0.1)
    assert bucket.take(10.0, 0.05) == pytest.approx(0.05)  # a refusal takes nothing
    assert bucket.take(10.0, 0.11) == 0.0


def test_less_than_one_a_second() -> None:
    bucket = TokenBucket(0.5, 0.0)
    assert bucket.take(0.5, 0.0) == 0.0
    assert bucket.take(0.5, 0.0) == 2.0
    assert bucket.take(0.5, 2.0) == 0.0


def test_a_debt_is_paid() -> None:
    bucket = TokenBucket(10.0, 0.0)
    waits = [bucket.charge(10.0, 0.0) for _ in range(30)]
    assert waits[:10] == [0.0] * 10
    assert waits[-1] == pytest.approx(2.0)
    assert bucket.charge(10.0, 2.5) == 0.0


@given(st.floats(0.1, 1_000), st.lists(st.floats(0, 2), max_size=200))
def test_never_more_than_the_rate_and_a_seconds_worth(rate: float, steps: list[float]) -> None:
    bucket, now, taken = TokenBucket(rate, 0.0), 0.0, 0
    for step in steps:
        now += step
        taken += bucket.take(rate, now) == 0.0
    assert taken <= max(1.0, rate) + now * rate + 1e-6
