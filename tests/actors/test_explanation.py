"""What an operator is told about an event is what becomes of it."""

from __future__ import annotations

import asyncio
from typing import Any
from unittest.mock import patch

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from actors.explanation import Explanation
from actors.session import Session
from actors.subscription import Delivery, Subscription
from actors.topic_policy import Strategy, TopicPolicy
from engine.config import loads
from tests.actors import test_fanout
from tests.actors.test_fanout import FakeSocket, Spine, run, until
from transport.filters import Filter
from transport.messages import Publication

CONFIG = loads(
    """
    [delivery]
    write_buffer = 1024
    [topics."a.y"]
    strategy = "broadcast_all"
    [topics."b"]
    strategy = "priority_first"
    window = 0.005
    """
)
PATTERNS = ["a.x", "a.*", ">", "b", "c"]
TOPICS = ["a.x", "a.y", "b"]
WHERES: list[Any] = [
    None,
    {"s": "A"},
    {"v": {"gte": 3}},
    {"v": {"lt": 5}, "s": {"not": "C"}},
    [{"s": "C"}, {"v": {"gt": 7}}],
    {"v": {"exists": False}},
    {"@type": "t1", "@key": "k"},
]
OPTIONS: list[dict[str, Any]] = [{}, {"window": 0.003}, {"conflate": True}, {"max_rate": 500}, {"batch": True}]
WHO = st.integers(0, 3)
STEPS = st.one_of(
    st.tuples(st.just("subscribe"), WHO, st.sampled_from(PATTERNS), st.sampled_from(WHERES), st.sampled_from(OPTIONS)),
    st.tuples(st.just("unsubscribe"), WHO, st.sampled_from(PATTERNS)),
    st.tuples(
        st.just("publish"),
        st.sampled_from(TOPICS),
        st.fixed_dictionaries({}, optional={"s": st.sampled_from("ABC"), "v": st.integers(0, 9)}),
        st.sampled_from([None, "low", "critical"]),
        st.sampled_from(["t1", "t2"]),
        st.sampled_from([None, "k"]),
    ),
)


@settings(max_examples=20, deadline=None)
@given(st.lists(STEPS, min_size=10, max_size=40))
def test_who_is_said_to_receive_an_event_gets_it_and_nobody_else(steps: list[tuple[Any, ...]]) -> None:
    async def scenario(spine: Spine) -> None:
        publisher, sockets = spine.connect(), [spine.connect() for _ in range(4)]
        everything: list[tuple[int, set[str]]] = []
        for step, *args in steps:
            if step == "publish":
                topic, data, priority, kind, key = args
                number = len(everything)
                event = {"topic": topic, "data": {**data, "n": number}, "type": kind}
                event |= {name: value for name, value in (("priority", priority), ("key", key)) if value is not None}
                order = {"do": "explain", "session": None, "limit": 100, "key": key}
                told = await spine.worker.order({**order, **event, "data": msgspec.json.encode(event["data"])})
                receivers = {row["session"] for row in told["sessions"] if row["receives"]}
                assert told["receivers"] == len(receivers)
                assert told["matched"] == len(told["sessions"])
                assert all(row["receives"] or row["because"] for row in told["sessions"])
                everything.append((number, receivers))
                await spine.answer(publisher, spine.request(publisher, op="publish", **event))
                # One after the other, or one is conflated away by the next.
                await until(lambda n=number, want=receivers: all(n in _got(s) for s in sockets if _id(s) in want))
                continue
            socket = sockets[args[0]]
            fields: dict[str, Any] = {"op": step, "topics": [args[1]]}
            if step == "subscribe":
                fields |= args[3] | ({} if args[2] is None else {"where": args[2]})
            answer = await spine.answer(socket, spine.request(socket, **fields))
            assert answer["op"] == "ok"
        for socket in sockets:  # what waits for its time comes before the answer
            await spine.answer(socket, spine.request(socket, op="unsubscribe", topics="*"))
        for number, receivers in everything:
            assert {_id(socket) for socket in sockets if number in _got(socket)} == receivers

    def _got(socket: FakeSocket) -> list[int]:
        messages = [m for m in socket.messages if m["op"] in ("event", "events")]
        events = [event for m in messages for event in (m["events"] if m["op"] == "events" else [m])]
        return [event["data"]["n"] for event in events]

    with patch.object(test_fanout, "CONFIG", CONFIG):
        run(scenario)


def _id(socket: FakeSocket) -> str:
    assert socket.session is not None
    return socket.session.id


def test_a_long_look_lets_events_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.SLICE", -1.0)

    async def scenario(spine: Spine) -> None:
        sockets = [spine.connect() for _ in range(5)]
        order = {"do": "explain", "topic": "a", "type": "t", "data": b"1", "key": None, "session": None, "limit": 1}
        turns = 0

        async def turn() -> None:
            nonlocal turns
            while True:
                turns += 1
                await asyncio.sleep(0)

        other = asyncio.create_task(turn())
        looking = asyncio.create_task(spine.worker.order(order))
        await asyncio.sleep(0)
        assert sockets[0].session is not None
        sockets[0].session.on_closed(1000, "")  # sessions may go meanwhile
        assert (await looking)["matched"] == 0
        other.cancel()
        assert turns >= 5

    run(scenario)


# One session --------------------------------------------------------------------------------------------------------


class Clients:
    """Nobody asks it anything here."""


def session(*subscriptions: tuple[str, dict[str, Any]], rated: bool = False) -> Session:
    made = Session("s", FakeSocket(), None, Clients())  # type: ignore[arg-type]
    made.rated = rated
    made.subscriptions = {pattern: Subscription(made, **options) for pattern, options in subscriptions}
    return made


def where(condition: Any) -> dict[str, Any]:
    return {"filter": Filter.parse(condition)}


def explained(made: Session, policy: TopicPolicy | None = None, *, closely: bool = False, limit: int = 10) -> Any:
    event = Publication("a.b", "", 0, 0.0, "message", b'{"tier":"daily","c":0.5}')
    explanation = Explanation(event, policy or TopicPolicy(), limit)
    (explanation.look_closely if closely else explanation.look)(made)
    return explanation.summary


def row(found: Any) -> tuple[Any, ...]:
    (only,) = found["sessions"]
    return only["pattern"], only["receives"], only["because"], only["delivery"]


def test_the_clause_that_keeps_it_away() -> None:
    made = session(("a.b", where({"tier": "daily", "c": {"gte": 0.8}})))
    assert row(explained(made)) == ("a.b", False, "c is 0.5, not gte 0.8", {})
    two = session(("a.b", where({"c": {"gte": 0.8}})), ("a.>", where([{"x": 1}, {"tier": "w"}])), ("z", {}))
    why = 'a.>: x is absent; tier is "daily", not eq "w"; a.b: c is 0.5, not gte 0.8'
    found = explained(two)
    assert row(found) == ("a.>", False, why, {})
    assert (found["patterns"], found["receivers"], found["matched"]) == (["a.>", "a.b"], 0, 1)


def test_it_comes_in_the_least_restrictive_way() -> None:
    slow, quick = {"delivery": Delivery(0.5, 0, True)}, {"delivery": Delivery(window=0.2)}
    made = session(("a.*", slow), ("a.b", quick), (">", where({"tier": "daily"}) | slow))
    assert row(explained(made)) == ("a.*", True, None, {"window": 0.2})
    made = session(("a.*", where({"tier": "w"}) | quick), (">", where({"tier": "daily"}) | slow))
    assert row(explained(made)) == (">", True, None, {"window": 0.2})
    made = session(("a.*", {"group": "g"}), (">", where({"tier": "daily"}) | slow))
    assert row(explained(made)) == (">", True, None, {"max_rate": 2.0})


def test_the_topics_policy_counts() -> None:
    made = session(("a.b", where({"tier": "w"})))
    because = 'broadcast_all ignores its filter: tier is "daily", not eq "w"'
    assert row(explained(made, TopicPolicy(Strategy.BROADCAST_ALL))) == ("a.b", True, because, {})
    policy = TopicPolicy(Strategy.PRIORITY_FIRST, window_s=0.1)
    assert row(explained(session(("a.b", {})), policy)) == ("a.b", True, None, {"window": 0.1, "by_priority": True})


def test_of_a_group_one_member_gets_it() -> None:
    made, policy = session(("a.*", {"group": "g"})), TopicPolicy(Strategy.LOAD_BALANCED)
    found = explained(made, policy)
    assert row(found) == ("a.*", None, "one member of group 'g' gets it", {"group": "g"})
    assert (found["groups"], found["receivers"]) == (["g"], 0)
    found = explained(made)
    assert row(found) == ("a.*", False, "consumer groups get nothing where the strategy is content_based", {})
    assert found["groups"] == []
    both = session(("a.*", {"group": "g"}), ("a.b", {}))
    assert row(explained(both, policy)) == ("a.b", True, None, {})
    kept = session(("a.*", {"group": "g"}), ("a.b", where({"tier": "w"})))
    assert row(explained(kept, policy))[:2] == ("a.*", None)


def test_a_users_rate_is_a_condition() -> None:
    assert row(explained(session(("a.b", {}), rated=True))) == ("a.b", True, "as far as its user's rate allows", {})


def test_who_is_asked_for_is_listed_whatever_it_subscribes_to() -> None:
    made = session(("x", {}), ("c.*", {}))
    assert explained(made)["sessions"] == []
    assert row(explained(made, closely=True)) == (None, False, "none of its patterns matches: c.*, x", {})
    assert row(explained(session(), closely=True)) == (None, False, "it has no subscription", {})
    assert row(explained(session(("a.b", {})), closely=True))[1] is True


def test_rows_are_bounded_and_all_are_counted() -> None:
    explanation = Explanation(Publication("a.b", "", 0, 0.0, "message", b"1"), TopicPolicy(), 2)
    gone = session(("a.b", {}))
    gone.leaving = True
    for made in (session(("a.b", {})), gone, session(("a.b", {})), session(("a.b", where({"x": 1})))):
        explanation.look(made)
    found = explanation.summary
    assert (len(found["sessions"]), found["matched"], found["receivers"]) == (2, 3, 2)
