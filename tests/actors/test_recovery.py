"""When an upstream is tried again: whole histories, told as their verdicts, without a socket and without a second."""

from __future__ import annotations

import json
from bisect import bisect_left
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.backoff import BackoffPolicy
from actors.breaker import BreakerPolicy, BreakerState
from actors.failure import POLICIES, Failure, FailureKind
from actors.recovery import Recovery, RecoveryPolicy, Verdict

BACKOFF = BackoffPolicy(first_s=0.1, cap_s=30, jitter=False)
K = FailureKind


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Upstream:
    """Fails as told; each attempt begins when the verdict before allows it."""

    def __init__(self, **policy: Any) -> None:
        self.clock = Clock()
        self.recovery = Recovery(RecoveryPolicy(**{"backoff": BACKOFF, **policy}), clock=self.clock)
        self.due = 0.0

    def fail(
        self, kind: FailureKind = K.REFUSED, *, lasted_s: float = 0, events: int = 0, retry_after: float | None = None
    ) -> Verdict:
        self.clock.now += self.due
        assert self.recovery.breaker.admit(), "the delay was too short"
        self.clock.now += lasted_s
        if events:
            self.recovery.delivered(events)
        verdict = self.recovery.failed(Failure(kind, "", retry_after), lasted_s=lasted_s, proven=events > 0)
        self.due = verdict.delay_s or 0.0
        return verdict

    def delays(self, times: int, kind: FailureKind = K.REFUSED, **how: Any) -> list[float | None]:
        return [self.fail(kind, **how).delay_s for _ in range(times)]

    @property
    def state(self) -> BreakerState:
        return self.recovery.breaker.state


def test_refusals_are_waited_for_by_the_backoff_and_then_by_the_breaker() -> None:
    upstream = Upstream()
    assert upstream.delays(10) == [0.1, 0.2, 0.4, 0.8, 10, 20, 40, 80, 80, 80]


def test_three_messages_after_the_opening_close_it_and_five_refusals_open_it_for_ten_seconds_again() -> None:
    upstream = Upstream()
    upstream.delays(6)
    assert upstream.fail(K.ABNORMAL, lasted_s=60, events=3).delay_s == 0.1
    assert upstream.state is BreakerState.CLOSED
    assert upstream.delays(5) == [0.2, 0.4, 0.8, 1.6, 10]


def test_who_gives_up_does_so_after_the_last_retry_and_for_good() -> None:
    upstream = Upstream(give_up=True)
    assert upstream.delays(5) == [0.1, 0.2, 0.4, 0.8, None]


def test_the_number_of_retries_is_the_breakers() -> None:
    assert Upstream(breaker=BreakerPolicy(failures=2), give_up=True).delays(2) == [0.1, None]


def test_connections_that_had_delivered_and_are_lost_do_not_open_a_closed_breaker() -> None:
    upstream = Upstream()
    assert upstream.delays(7, K.ABNORMAL, lasted_s=1, events=1) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
    assert (upstream.state, upstream.recovery.breaker.failures) == (BreakerState.CLOSED, 0)


def test_a_connection_that_delivers_too_little_before_it_is_lost_reopens_a_half_open_breaker() -> None:
    upstream = Upstream()
    upstream.delays(5)
    assert upstream.fail(K.ABNORMAL, lasted_s=1, events=2).delay_s == 20
    assert upstream.state is BreakerState.OPEN


def test_a_connection_that_never_delivered_counts_however_long_it_lasted() -> None:
    upstream = Upstream()
    assert upstream.delays(5, K.STALE, lasted_s=30) == [0.1, 0.1, 0.1, 0.1, 10]


def test_a_stable_connection_lets_the_backoff_begin_anew() -> None:
    upstream = Upstream()
    upstream.delays(3)
    assert upstream.fail(K.ABNORMAL, lasted_s=9.9, events=1).delay_s == 0.8
    assert upstream.fail(K.ABNORMAL, lasted_s=10, events=1).delay_s == 0.1


@pytest.mark.parametrize(("before", "state"), [(0, BreakerState.CLOSED), (4, BreakerState.OPEN)])
def test_the_pause_that_the_upstream_asks_for_beats_backoff_and_breaker_where_it_is_longer(
    before: int, state: BreakerState
) -> None:
    upstream = Upstream()
    upstream.delays(before)
    assert upstream.fail(K.UNAVAILABLE, retry_after=60).delay_s == 60
    assert upstream.state is state


@pytest.mark.parametrize(("before", "delay"), [(0, 0.2), (4, 10)])
def test_a_shorter_pause_than_ours_changes_nothing(before: int, delay: float) -> None:
    upstream = Upstream()
    upstream.delays(before)
    assert upstream.fail(K.UNAVAILABLE, retry_after=0.05).delay_s == delay


@pytest.mark.parametrize("kind", [kind for kind in K if not POLICIES[kind].counts])
def test_an_orderly_end_never_opens_the_breaker_but_is_waited_for(kind: FailureKind) -> None:
    upstream = Upstream()
    assert upstream.delays(8, kind) == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8]
    assert upstream.recovery.breaker.failures == 0


@pytest.mark.parametrize("kind", [kind for kind in K if not POLICIES[kind].counts])
def test_an_orderly_end_while_half_open_makes_room_for_the_next_attempt(kind: FailureKind) -> None:
    upstream = Upstream()
    upstream.delays(5)
    assert upstream.fail(kind).delay_s == pytest.approx(3.2)
    upstream.clock.now += 3.2
    assert upstream.state is BreakerState.HALF_OPEN
    assert upstream.recovery.breaker.admit()


@pytest.mark.parametrize("kind", K)
def test_each_kind_has_the_patience_of_its_policy(kind: FailureKind) -> None:
    upstream = Upstream()
    patience = POLICIES[kind].patience
    assert upstream.delays(4, kind) == pytest.approx([patience * delay for delay in (0.1, 0.2, 0.4, 0.8)])


@pytest.mark.parametrize("kind", K)
def test_only_an_unauthorized_one_needs_another_token(kind: FailureKind) -> None:
    assert Upstream().fail(kind).needs_token is (kind is K.UNAUTHORIZED)


def test_each_failed_attempt_moves_to_the_next_url_and_the_loss_of_one_that_had_delivered_back_to_the_first() -> None:
    upstream = Upstream()
    urls = []
    for kind, events in ((K.REFUSED, 0), (K.TIMEOUT, 0), (K.THROTTLED, 0), (K.TLS, 0), (K.ABNORMAL, 1), (K.DNS, 0)):
        upstream.fail(kind, events=events)
        urls.append(upstream.recovery.url)
    assert urls == [1, 2, 2, 3, 0, 1]


def test_an_operators_reset_forgets_it_all() -> None:
    upstream = Upstream()
    upstream.delays(7)
    upstream.recovery.reset()
    upstream.due = 0
    assert (upstream.state, upstream.recovery.url) == (BreakerState.CLOSED, 0)
    assert upstream.delays(5) == [0.1, 0.2, 0.4, 0.8, 10]


@given(st.integers(0, 12), st.integers(1, 6))
def test_a_successor_goes_on_where_its_predecessor_was(before: int, after: int) -> None:
    upstream, other = Upstream(), Upstream()
    upstream.delays(before)
    other.delays(before)
    snapshot = json.loads(json.dumps(upstream.recovery.snapshot()))
    upstream.recovery = Recovery(upstream.recovery.policy, clock=upstream.clock)
    upstream.recovery.restore(snapshot)
    assert upstream.delays(after) == other.delays(after)
    assert upstream.recovery.snapshot() == other.recovery.snapshot()


attempts = st.tuples(
    st.sampled_from(K),
    st.one_of(st.just(0.0), st.floats(0, 9.9)),  # shorter than stable
    st.integers(0, 4),
    st.one_of(st.none(), st.floats(0, 100)),
)


@given(st.lists(attempts, min_size=1, max_size=40), st.floats(0.1, 200))
def test_whatever_happens_there_is_no_storm(
    history: list[tuple[FailureKind, float, int, float | None]], window_s: float
) -> None:
    """A wait is the backoff's, which grows as long as no connection is stable, or at least the breaker's ``open_s``:
    no window has more attempts than a series of the shorter of the two, from its beginning, fits in.
    """
    upstream = Upstream()
    began: list[float] = []
    for kind, lasted_s, events, retry_after in history:
        upstream.fail(kind, lasted_s=lasted_s if events else 0, events=events, retry_after=retry_after)
        began.append(upstream.clock.now - (lasted_s if events else 0))
    allowed, spent = 1, 0.0
    while spent <= window_s:
        spent += min(BACKOFF.bound(allowed), BreakerPolicy().open_s)
        allowed += 1
    for i, first in enumerate(began):
        assert bisect_left(began, first + window_s) - i <= allowed


@given(st.lists(attempts, min_size=1, max_size=40))
def test_a_delay_is_never_shorter_than_the_backoff_or_the_breaker_or_the_upstream_asks(
    history: list[tuple[FailureKind, float, int, float | None]],
) -> None:
    upstream = Upstream()
    for n, (kind, lasted_s, events, retry_after) in enumerate(history, 1):
        delay = upstream.fail(kind, lasted_s=lasted_s, events=events, retry_after=retry_after).delay_s
        assert delay is not None
        assert delay >= min(BACKOFF.bound(n), 10)
        assert delay >= upstream.recovery.breaker.wait_s
        assert delay >= (retry_after or 0)
        assert delay <= max(10 * 30, 80, retry_after or 0)


def test_a_failure_that_asks_for_patience_gets_more_than_the_breakers_time() -> None:
    recovery = Recovery(RecoveryPolicy(BackoffPolicy(1.0, 30.0, jitter=False)), clock=lambda: 0.0)
    delays = [recovery.failed(Failure(FailureKind.TLS, "")).delay_s for _ in range(5)]
    assert delays == [10.0, 20.0, 40.0, 80.0, 160.0]  # the fifth opened the breaker, for 10 s
