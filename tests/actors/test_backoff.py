from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backoff import Backoff, BackoffPolicy

policies = st.builds(
    lambda first, more, factor, jitter: BackoffPolicy(first, first + more, factor, jitter),
    st.floats(0.001, 10),
    st.floats(0, 100),
    st.floats(1, 10),
    st.booleans(),
)


@given(policies, st.integers(1, 5_000), st.floats(0, 1, exclude_max=True))
def test_a_delay_is_between_zero_and_the_cap(policy: BackoffPolicy, failures: int, chance: float) -> None:
    backoff = Backoff(policy, lambda: chance)
    backoff.failures = failures - 1
    assert 0 <= backoff.failed() <= policy.bound(failures) <= policy.cap_s


@given(policies, st.integers(1, 2_000))
def test_the_bound_never_falls(policy: BackoffPolicy, failures: int) -> None:
    assert policy.bound(failures) <= policy.bound(failures + 1)


def test_without_jitter_the_delays_double_up_to_the_cap() -> None:
    backoff = Backoff(BackoffPolicy(first_s=0.5, cap_s=3, jitter=False))
    assert [backoff.failed() for _ in range(5)] == [0.5, 1, 2, 3, 3]


def test_the_delays_of_the_seed_are_100_200_400_800_ms() -> None:
    backoff = Backoff(BackoffPolicy(first_s=0.1, cap_s=1, jitter=False))
    assert [backoff.failed() for _ in range(6)] == [0.1, 0.2, 0.4, 0.8, 1, 1]


def test_patience_multiplies_delay_and_cap() -> None:
    backoff = Backoff(BackoffPolicy(first_s=0.1, cap_s=0.4, jitter=False))
    assert [backoff.failed(patience=10) for _ in range(4)] == [1, 2, 4, 4]
    assert backoff.failed() == 0.4


@given(policies, st.integers(1, 5_000), st.floats(0, 1, exclude_max=True), st.floats(1, 100))
def test_a_patient_delay_is_within_patience_times_the_bound(
    policy: BackoffPolicy, failures: int, chance: float, patience: float
) -> None:
    backoff = Backoff(policy, lambda: chance)
    backoff.failures = failures - 1
    delay = backoff.failed(patience=patience)
    assert 0 <= delay <= patience * policy.bound(failures)
    if not policy.jitter:
        assert delay == pytest.approx(patience * policy.bound(failures))


def test_before_any_failure_there_is_nothing_to_wait_for() -> None:
    assert BackoffPolicy().bound(0) == 0


def test_full_jitter_spreads_over_the_whole_bound() -> None:
    chances = iter([0.0, 0.5, 0.999])
    backoff = Backoff(BackoffPolicy(first_s=1, cap_s=8), lambda: next(chances))
    assert [backoff.failed() for _ in range(3)] == [0.0, 1.0, pytest.approx(3.996)]


def test_a_stable_connection_begins_anew_and_a_short_one_does_not() -> None:
    backoff = Backoff(BackoffPolicy(first_s=1, cap_s=100, jitter=False, stable_s=10))
    assert [backoff.failed(), backoff.failed(lasted_s=9.9), backoff.failed(lasted_s=10)] == [1, 2, 1]
    backoff.reset()
    assert backoff.failures == 0


@pytest.mark.parametrize("wrong", [{"first_s": 0}, {"first_s": 2, "cap_s": 1}, {"factor": 0.5}])
def test_a_policy_that_cannot_work_names_the_field(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        BackoffPolicy(**wrong)  # type: ignore[arg-type]
