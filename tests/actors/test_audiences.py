"""What overlapping, strange and greedy subscriptions do to a worker's audiences; no hub, no sockets."""

from typing import Any

import pytest

from actors.audiences import FIELDS, PRIVATE_ROUTES, Audiences
from actors.messages import Hold, Join, Select
from actors.subscription import EVERYTHING, Delivery, Subscription
from actors.topic_policy import Strategy, TopicPolicies, TopicPolicy
from bench import fakes
from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.filters import Filter
from transport.messages import Publication
from transport.wire_forms import JsonForm

FORM = JsonForm()


def audiences(policy: TopicPolicy | None = None) -> Audiences:
    return Audiences(TopicPolicies({} if policy is None else {"a.>": policy}), lambda pattern, ops: None)


def enter(table: Audiences, session: Any, pattern: str, where: Any = None, **options: Any) -> list[Any]:
    ops: list[Any] = []
    wanted = EVERYTHING
    if where is not None or options:
        wanted = Subscription(session, None if where is None else Filter.parse(where), Delivery(**options))
    joins: list[Any] = []
    table.enter(session, pattern, wanted, ops, joins)
    return [*ops, *joins]


def event(topic: str, data: bytes, offset: int = 1) -> Publication:
    return Publication(topic, "e", offset, 0.0, "t", data)


def spread(table: Audiences, publication: Publication) -> list[Any]:
    ops: list[Any] = []
    audience = table.find(publication.topic, ops)
    assert audience is not None
    ops.clear()
    audience.spread(publication, ops)
    return ops


def selected(ops: list[Any]) -> list[Any]:
    return [s for op in ops if isinstance(op, Select) for _, sessions in op.selection.lanes for s in sessions]


def test_a_plain_subscription_takes_the_session_out_of_what_was_selected() -> None:
    table, (session, _), (other, _) = audiences(), fakes.session(FORM), fakes.session(FORM)
    enter(table, other, ">")  # so that the set of patterns stays the same
    enter(table, session, "a.*", {"s": "A"})
    publication = event("a.x", b'{"s":"A"}')
    assert selected(spread(table, publication)) == [session]
    joins = enter(table, session, ">")
    assert [join for join in joins if isinstance(join, Join)]
    assert selected(spread(table, publication)) == []
    table.exit(session, [">"], [])
    assert selected(spread(table, publication)) == [session]


def test_the_least_restrictive_of_two_filtered_subscriptions_holds_for_both() -> None:
    table, (session, _) = audiences(), fakes.session(FORM)
    enter(table, session, "a.*", {"s": "A"}, interval=0.1, conflate=True)
    held = spread(table, event("a.x", b'{"s":"A"}'))
    assert [type(op) for op in held] == [Join, Hold]
    enter(table, session, ">", {"s": "B"})
    for letter in (b"A", b"B"):
        assert selected(spread(table, event("a.x", b'{"s":"%b"}' % letter))) == [session]
    table.exit(session, [">"], [])
    assert [type(op) for op in spread(table, event("a.x", b'{"s":"A"}'))] == [Hold]
    assert not spread(table, event("a.x", b'{"s":"B"}'))


def test_broadcast_all_ignores_filters() -> None:
    table, (session, _) = audiences(TopicPolicy(Strategy.BROADCAST_ALL)), fakes.session(FORM)
    enter(table, session, ">", {"s": "A"})
    [((route,), _)] = spread(table, event("a.x", b'{"s":"B"}'))
    assert route.size == 1
    assert not selected(spread(table, event("b.x", b'{"s":"B"}')))


def test_a_cohort_has_so_many_members_and_no_more_and_who_comes_fills_one_up() -> None:
    table, sessions = audiences(), [fakes.session(FORM)[0] for _ in range(7)]
    for session in sessions:
        enter(table, session, "a.*")
    [(routes, _)] = spread(table, event("a.x", b"{}"))
    assert [route.size for route in routes] == [2, 2, 2, 1]
    for session in (sessions[0], sessions[2], sessions[6]):
        table.exit(session, ["a.*"], [])
    [(routes, _)] = spread(table, event("a.x", b"{}"))
    assert [route.size for route in routes] == [1, 1, 2], "one without members is gone"
    enter(table, sessions[0], "a.*")
    enter(table, sessions[2], "a.*")
    [(routes, _)] = spread(table, event("a.x", b"{}"))
    assert [route.size for route in routes] == [2, 2, 2]


def test_filters_on_a_pattern_name_so_many_fields_and_no_more() -> None:
    table, (session, _) = audiences(), fakes.session(FORM)
    for n in range(0, FIELDS, 64):
        where = {f"f{i}": 1 for i in range(n, n + 64)}
        table.admit(session, [f"a.{n}"], Filter.parse(where))
        enter(table, session, "a.x", where)
        session, _ = fakes.session(FORM)
    table.admit(session, ["a.x"], Filter.parse({"f0": 2}))
    with pytest.raises(RequestError) as refused:
        table.admit(session, ["a.x"], Filter.parse({"one more": 1}))
    assert (refused.value.code, refused.value.field) == (ErrorCode.LIMIT_EXCEEDED, "where")


def test_a_client_that_changes_its_rate_all_the_time_leaves_few_routes_behind() -> None:
    table, (session, _) = audiences(), fakes.session(FORM)
    for n in range(1, 100):
        enter(table, session, "a.x", {"s": "A"}, interval=0.1 / n, conflate=True)
        assert [op for op in spread(table, event("a.x", b'{"s":"A"}')) if isinstance(op, Hold)]
        assert len(session.private or ()) <= PRIVATE_ROUTES + 1
    table.exit(session, ["a.x"], [])
    assert session.private is None
    assert not any(table.statistics())
