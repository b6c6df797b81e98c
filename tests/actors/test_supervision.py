"""The restart policy against a fake clock, and its invariants over random histories."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actors.supervision import ChildPolicy, Decision, Restart, RestartPolicy, Strategy
from transport.errors import ConfigError

NAMES = ("a", "b", "c", "d")


def policy(strategy: Strategy, restart: Restart = Restart.PERMANENT, intensity: int = 10) -> RestartPolicy:
    return RestartPolicy(strategy, [ChildPolicy(name, restart, intensity) for name in NAMES])


@pytest.mark.parametrize(
    ("strategy", "decision"),
    [
        (Strategy.ONE_FOR_ONE, Decision((), ("b",))),
        (Strategy.ONE_FOR_ALL, Decision(("d", "c", "a"), NAMES)),
        (Strategy.REST_FOR_ONE, Decision(("d", "c"), ("b", "c", "d"))),
    ],
)
def test_strategy_says_who_shares_the_fate(strategy: Strategy, decision: Decision) -> None:
    assert policy(strategy).exited("b", abnormal=True, now=0) == decision


@pytest.mark.parametrize(
    ("restart", "abnormal", "started"),
    [
        (Restart.PERMANENT, True, True),
        (Restart.PERMANENT, False, True),
        (Restart.TRANSIENT, True, True),
        (Restart.TRANSIENT, False, False),
        (Restart.TEMPORARY, True, False),
        (Restart.TEMPORARY, False, False),
    ],
)
def test_restart_type_says_whether_it_comes_back(restart: Restart, abnormal: bool, started: bool) -> None:
    rules = policy(Strategy.ONE_FOR_ONE, restart)
    assert rules.exited("c", abnormal=abnormal, now=0) == Decision((), ("c",) if started else ())
    assert ("c" in rules.alive) is started


def test_temporary_sibling_is_stopped_and_stays_down() -> None:
    children = [ChildPolicy("a"), ChildPolicy("b", Restart.TEMPORARY), ChildPolicy("c")]
    rules = RestartPolicy(Strategy.ONE_FOR_ALL, children)
    assert rules.exited("a", abnormal=True, now=0) == Decision(("c", "b"), ("a", "c"))
    assert rules.exited("a", abnormal=True, now=1) == Decision(("c",), ("a", "c"))


def test_one_that_finished_is_not_started_for_a_siblings_sake() -> None:
    rules = policy(Strategy.REST_FOR_ONE, Restart.TRANSIENT)
    rules.exited("c", abnormal=False, now=0)
    assert rules.exited("b", abnormal=True, now=1) == Decision(("d",), ("b", "d"))
    assert rules.exited("c", abnormal=True, now=1) == Decision()


def test_exceeding_the_intensity_escalates_and_says_why() -> None:
    rules = policy(Strategy.ONE_FOR_ONE, intensity=2)
    assert rules.exited("a", abnormal=True, now=0.0).start
    assert rules.exited("a", abnormal=True, now=59.0).start
    assert rules.exited("b", abnormal=True, now=59.0).start, "intensity is per child"
    third = rules.exited("a", abnormal=True, now=59.9)
    assert third == Decision(escalate="a needs more than 2 restarts within 60 s")


def test_restarts_older_than_the_period_are_forgotten() -> None:
    rules = policy(Strategy.ONE_FOR_ONE, intensity=1)
    assert rules.exited("a", abnormal=True, now=0.0).start
    assert rules.exited("a", abnormal=True, now=60.0).start
    assert rules.exited("a", abnormal=True, now=119.9).escalate


@pytest.mark.parametrize(
    ("children", "field"),
    [
        ([ChildPolicy("a"), ChildPolicy("b"), ChildPolicy("a")], "children"),
        ([ChildPolicy("a", intensity=-1)], "a.intensity"),
        ([ChildPolicy("a", period=0)], "a.period"),
    ],
)
def test_bad_children_are_named(children: list[ChildPolicy], field: str) -> None:
    with pytest.raises(ConfigError) as caught:
        RestartPolicy(Strategy.ONE_FOR_ONE, children)
    assert caught.value.field == field


@st.composite
def histories(draw: st.DrawFn) -> tuple[Strategy, list[ChildPolicy], list[tuple[str, bool, float]]]:
    children = [
        ChildPolicy(
            name,
            draw(st.sampled_from(Restart)),
            draw(st.integers(0, 3)),
            draw(st.sampled_from([1.0, 5.0, 60.0])),
        )
        for name in NAMES[: draw(st.integers(1, 4))]
    ]
    name = st.sampled_from([child.name for child in children])
    exits = draw(st.lists(st.tuples(name, st.booleans(), st.floats(0, 10)), max_size=40))
    return draw(st.sampled_from(Strategy)), children, exits


@given(histories())
def test_invariants(history: tuple[Strategy, list[ChildPolicy], list[tuple[str, bool, float]]]) -> None:
    strategy, children, exits = history
    rules = RestartPolicy(strategy, children)
    order = [child.name for child in children]
    by_name = {child.name: child for child in children}
    own_restarts: dict[str, list[float]] = {name: [] for name in order}
    alive = set(order)
    now = 0.0
    for name, abnormal, pause in exits:
        now += pause
        decision = rules.exited(name, abnormal=abnormal, now=now)
        if decision.escalate is not None:
            assert not decision.stop
            assert not decision.start
            child = by_name[name]
            recent = [at for at in own_restarts[name] if at > now - child.period]
            assert len(recent) == child.intensity, "escalates only when one more would be too many"
            return
        # Nobody is stopped who does not run, nobody runs twice, and the orders are those of start and its reverse.
        assert set(decision.stop) <= alive - {name}
        assert list(decision.start) == sorted(decision.start, key=order.index)
        assert list(decision.stop) == sorted(decision.stop, key=order.index, reverse=True)
        assert set(decision.start) <= set(decision.stop) | {name}
        if name not in alive:
            assert decision == Decision()
        if decision.start:
            assert name in decision.start
            own_restarts[name].append(now)
            sharers = {
                Strategy.ONE_FOR_ONE: set(),
                Strategy.ONE_FOR_ALL: alive - {name},
                Strategy.REST_FOR_ONE: {other for other in alive if order.index(other) > order.index(name)},
            }[strategy]
            assert set(decision.stop) == sharers, "exactly those who share the fate"
            kept = {other for other in sharers if by_name[other].restart is not Restart.TEMPORARY}
            assert set(decision.start) == kept | {name}
        alive = (alive - {name} - set(decision.stop)) | set(decision.start)
        assert set(rules.alive) == alive
        for child in children:
            recent = [at for at in own_restarts[child.name] if at > now - child.period]
            assert len(recent) <= child.intensity, "never more than intensity within period"
