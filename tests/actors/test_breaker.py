"""The circuit breaker against a simple model, with a clock of whole seconds, and its figures."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from actors.breaker import BreakerPolicy, BreakerState, CircuitBreaker

CLOSED, OPEN, HALF_OPEN = BreakerState.CLOSED, BreakerState.OPEN, BreakerState.HALF_OPEN


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


class Model:
    """What the breaker should do, said another way: the time of each change is written down, not derived."""

    def __init__(self, now: float) -> None:
        self.changes: list[tuple[float, BreakerState]] = [(now, CLOSED)]
        self.in_a_row = self.level = 0
        self.opens_until = 0.0
        self.taken = False

    def at(self, now: float) -> BreakerState:
        if self.changes[-1][1] is OPEN and now >= self.opens_until:
            self.go(HALF_OPEN, self.opens_until)
        return self.changes[-1][1]

    def go(self, state: BreakerState, now: float) -> None:
        self.changes.append((now, state))
        self.in_a_row, self.taken = 0, False

    def open(self, now: float) -> None:
        self.opens_until = now + (10, 20, 40, 80)[min(self.level, 3)]
        self.go(OPEN, now)

    def seconds(self, state: BreakerState, now: float) -> float:
        ends = [begin for begin, _ in self.changes[1:]] + [now]
        return sum(end - begin for (begin, of), end in zip(self.changes, ends, strict=True) if of is state)


class BreakerMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.told: list[tuple[BreakerState, BreakerState]] = []
        self.breaker = self.make()
        self.model = Model(self.clock.now)
        self.counts = [0, 0]

    def make(self) -> CircuitBreaker:
        return CircuitBreaker(BreakerPolicy(), self.clock, lambda old, new: self.told.append((old, new)))

    @rule(seconds=st.integers(0, 45))
    def wait(self, seconds: int) -> None:
        self.clock.now += seconds

    @rule()
    def wait_until_half_open(self) -> None:
        self.clock.now += self.breaker.wait_s

    @rule()
    def admit(self) -> None:
        model, state = self.model, self.model.at(self.clock.now)
        assert self.breaker.admit() == (state is CLOSED or (state is HALF_OPEN and not model.taken))
        model.taken = state is HALF_OPEN

    @rule(times=st.integers(1, 6))
    def fail(self, times: int) -> None:
        for _ in range(times):
            model, state = self.model, self.model.at(self.clock.now)
            self.breaker.failed()
            self.counts[0] += 1
            model.taken = False
            if state is CLOSED:
                model.in_a_row += 1
                if model.in_a_row == 5:
                    model.level = 0
                    model.open(self.clock.now)
            elif state is HALF_OPEN:
                model.level += 1
                model.open(self.clock.now)

    @rule(times=st.integers(1, 4))
    def succeed(self, times: int) -> None:
        model, state = self.model, self.model.at(self.clock.now)
        self.breaker.succeeded(times)
        self.counts[1] += times
        if state is CLOSED:
            model.in_a_row = 0
        elif state is HALF_OPEN:
            model.in_a_row += times
            if model.in_a_row >= 3:
                model.go(CLOSED, self.clock.now)

    @rule()
    def release(self) -> None:
        self.model.at(self.clock.now)
        self.breaker.released()
        self.model.taken = False

    @rule()
    def reset(self) -> None:
        if self.model.at(self.clock.now) is not CLOSED:
            self.model.go(CLOSED, self.clock.now)
        self.breaker.reset()
        self.model.in_a_row = 0
        self.model.taken = False

    @rule(down_s=st.integers(0, 30))
    def die_and_be_restored(self, down_s: int) -> None:
        snapshot = json.loads(json.dumps(self.breaker.snapshot()))
        self.model.at(self.clock.now)
        self.clock.now += down_s
        self.breaker = self.make()
        self.breaker.restore(snapshot)
        self.model.taken = False  # whoever had the place is dead too

    @invariant()
    def they_agree(self) -> None:
        now, model, breaker = self.clock.now, self.model, self.breaker
        state = model.at(now)
        assert breaker.state is state
        assert breaker.wait_s == (model.opens_until - now if state is OPEN else 0)
        assert breaker.snapshot()["in_a_row"] == model.in_a_row
        assert [breaker.failures, breaker.successes] == self.counts
        assert breaker.opens == sum(of is OPEN for _, of in model.changes)
        assert breaker.seconds() == {of: model.seconds(of, now) for of in BreakerState}
        assert sum(breaker.seconds().values()) == now - 1_000
        states = [of for _, of in model.changes]
        assert self.told == list(pairwise(states))


BreakerMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
test_it_does_what_the_model_does = BreakerMachine.TestCase


def opened(clock: Clock) -> CircuitBreaker:
    breaker = CircuitBreaker(BreakerPolicy(), clock)
    for _ in range(5):
        breaker.failed()
    return breaker


def test_it_stays_open_twice_as_long_each_time_up_to_the_cap_and_at_first_again_once_closed() -> None:
    clock = Clock()
    breaker = opened(clock)
    times = []
    for _ in range(6):
        times.append(breaker.wait_s)
        clock.now += breaker.wait_s
        assert breaker.admit()
        breaker.failed()
    assert times == [10, 20, 40, 80, 80, 80]
    clock.now += 80
    breaker.succeeded(3)
    assert breaker.state is CLOSED
    for _ in range(5):
        breaker.failed()
    assert breaker.wait_s == 10


def test_the_fifth_failure_in_a_row_opens_it_and_a_success_between_begins_anew() -> None:
    breaker = CircuitBreaker(BreakerPolicy(), Clock())
    for _ in range(4):
        breaker.failed()
    breaker.succeeded()
    for _ in range(4):
        breaker.failed()
    assert breaker.state is CLOSED
    breaker.failed()
    assert breaker.state is OPEN
    assert (breaker.failures, breaker.successes, breaker.opens) == (9, 1, 1)


def test_half_open_lets_one_attempt_at_a_time_through_until_three_successes() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 9.999
    assert not breaker.admit()
    clock.now += 0.001
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.released()
    assert [breaker.admit(), breaker.admit()] == [True, False]
    breaker.succeeded(2)
    assert (breaker.state, breaker.admit()) == (HALF_OPEN, False)
    breaker.succeeded()
    assert (breaker.state, breaker.admit(), breaker.admit()) == (CLOSED, True, True)


def test_a_failure_or_success_while_open_changes_nothing_but_the_counts() -> None:
    clock = Clock()
    breaker = opened(clock)
    clock.now += 4
    breaker.failed()
    breaker.succeeded(10)
    assert (breaker.state, breaker.wait_s, breaker.failures, breaker.successes, breaker.opens) == (OPEN, 6, 6, 10, 1)


def test_who_is_told_of_opening_reads_the_wait_in_it() -> None:
    clock = Clock()
    waits: list[float] = []
    breaker = CircuitBreaker(BreakerPolicy(failures=1), clock, lambda old, new: waits.append(breaker.wait_s))
    breaker.failed()
    clock.now += 10
    breaker.failed()
    assert waits == [10, 0, 20]


def test_a_growth_beyond_a_float_is_the_cap() -> None:
    assert BreakerPolicy(factor=1e300).open_time(2_000) == 80


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"failures": 0}, "failures"),
        ({"successes": 0}, "successes"),
        ({"open_s": 0}, "open_s"),
        ({"open_s": 20, "open_max_s": 10}, "open_max_s"),
        ({"factor": 0.9}, "factor"),
    ],
)
def test_a_policy_that_cannot_work_names_the_field(wrong: dict[str, float], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        BreakerPolicy(**wrong)  # type: ignore[arg-type]
