"""The check of a worker's index: silent after any changes, and it sees each kind of damage."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors import index_check
from actors.audiences import Audiences, Statistics
from actors.index_check import problems
from actors.session import Session
from actors.subscription import EVERYTHING, Delivery, Subscription
from actors.topic_policy import TopicPolicies
from transport.filters import Filter
from transport.wire_forms import JsonForm

PATTERNS = ["a.x", "a.*", ">", "b"]
WHERES: list[Any] = [None, {"s": "A"}, {"s": ["A", "B"], "v": {"gte": 3}}, [{"s": "B"}, {"v": {"gt": 7}}]]
DELIVERIES = [Delivery(), Delivery(window=0.1)]


class FakeConnection:
    """A client of whom nothing is wanted."""

    user: str | None = None

    def write(self, data: bytes) -> None: ...


class Table:
    """Audiences of three sessions."""

    def __init__(self) -> None:
        self.audiences = Audiences(TopicPolicies({}), lambda pattern, ops: None)
        form = JsonForm()
        connection: Any = FakeConnection()
        clients: Any = None
        self.sessions = [Session(f"s{n}", connection, form, clients) for n in range(3)]

    def enter(self, who: int, pattern: str, where: Any, delivery: Delivery) -> None:
        session = self.sessions[who]
        wanted = None if where is None else Filter.parse(where)
        plain = wanted is None and delivery == Delivery()
        subscription = EVERYTHING if plain else Subscription(session, wanted, delivery)
        self.audiences.enter(session, pattern, subscription, [], [])

    def exit(self, who: int, pattern: str) -> None:
        self.audiences.exit(self.sessions[who], [pattern], [])

    def find(self, topic: str) -> None:
        self.audiences.find(topic, [])

    def check(self) -> list[str]:
        self.unchecked: list[str] = []
        return [text for text in problems(self.audiences, self.sessions, self.unchecked) if text is not None]


WHO, PATTERN = st.integers(0, 2), st.sampled_from(PATTERNS)
STEPS = st.one_of(
    st.tuples(st.just("enter"), WHO, PATTERN, st.sampled_from(WHERES), st.sampled_from(DELIVERIES)),
    st.tuples(st.just("exit"), WHO, PATTERN),
    st.tuples(st.just("find"), st.sampled_from(["a.x", "a.y", "b"])),
)


@settings(max_examples=100, deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_it_finds_nothing_whatever_was_subscribed_and_given_up(steps: list[tuple[Any, ...]]) -> None:
    table = Table()
    for step, *args in steps:
        getattr(table, step)(*args)
        assert table.check() == []
    subscriptions = [s for session in table.sessions for s in (session.subscriptions or {}).values()]
    counts = table.audiences.statistics()
    assert counts.members == len(subscriptions)
    assert counts.filtered == table.audiences.filtered == sum(s.filter is not None for s in subscriptions)
    for who in range(3):
        for pattern in PATTERNS:
            table.exit(who, pattern)
    assert table.check() == []
    assert table.audiences.statistics() == Statistics(*[0] * len(Statistics._fields))


def _forget_member(table: Table) -> None:
    del table.audiences._members["a.*"][table.sessions[0]]


def _forget_subscription(table: Table) -> None:
    del (table.sessions[1].subscriptions or {})["a.*"]


def _lose_filter(table: Table) -> None:
    index = table.audiences.filters("a.*")
    assert index is not None
    index.remove((table.sessions[1].subscriptions or {})["a.*"])


def _damage_filter(table: Table) -> None:
    index = table.audiences.filters("a.*")
    assert index is not None
    index._states["s"].needs.clear()


def _miscount(table: Table) -> None:
    (audience,) = table.audiences.of("a.*")
    next(iter(audience.routes)).size += 1


def _misplace(table: Table) -> None:
    (audience,) = table.audiences.of("a.*")
    audience._placed[table.sessions[1]] = next(iter(audience.routes))


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (
            _forget_member,
            ["a.*: cohorts of 1 sessions, of which 0 subscribe", "s0: subscribes where it is not listed: a.*"],
        ),
        (_forget_subscription, ["a.*: listed without a subscription: s1"]),
        (_lose_filter, ["a.*: 0 filters are indexed, 1 in force, 0 both"]),
        (_damage_filter, ["a.*: the filter index does not agree with the filters: needs of s"]),
        (_miscount, ["a.*: cohorts of 1 sessions, of which 1 subscribe"]),
        (_misplace, ["a.*: s1 is not in the cohort that its subscriptions ask for"]),
    ],
)
def test_it_sees_what_is_wrong(damage: Callable[[Table], None], found: list[str]) -> None:
    table = Table()
    table.enter(0, "a.*", None, Delivery())
    table.enter(1, "a.*", {"s": "A"}, Delivery())
    table.find("a.x")
    assert table.check() == []
    damage(table)
    assert [text.partition("\n")[0] for text in table.check()] == found  # pytest has more to say of an assertion


def test_what_would_hold_up_the_worker_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    for who in range(2):
        table.enter(who, "a.*", {"s": "A"}, Delivery())
    table.enter(2, "b", {"s": "A"}, Delivery())
    _damage_filter(table)
    monkeypatch.setattr(index_check, "FILTERS", 1)
    assert (table.check(), table.unchecked) == ([], ["a.*"])


def test_sessions_and_patterns_may_go_between_two_steps() -> None:
    table = Table()
    for who in range(3):
        for pattern in ("a.*", "b"):
            table.enter(who, pattern, {"s": "A"}, Delivery())
    table.find("a.x")
    found = []
    for text in problems(table.audiences, table.sessions, []):
        if not found:
            for who in range(3):
                for pattern in ("a.*", "b"):
                    table.exit(who, pattern)
        found.append(text)
    assert found == [None] * 4, "one pattern, and three sessions that have nothing any more"


def test_an_audience_that_has_gone_between_two_steps_is_not_looked_at() -> None:
    table, patterns = Table(), [f"a.{n}" for n in range(10)]
    table.enter(0, ">", None, Delivery())
    for pattern in patterns:
        table.enter(1, pattern, None, Delivery())
        table.find(pattern)
    found = []
    for text in problems(table.audiences, table.sessions, []):
        found.append(text)
        if len(found) == 12:  # all patterns and an audience
            for pattern in patterns:
                table.exit(1, pattern)
            table.enter(0, ">", None, Delivery(window=0.1))
    assert found == [None] * (12 + 3), "those that are left mean nothing any more"
