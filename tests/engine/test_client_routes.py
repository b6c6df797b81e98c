"""Who of a client's subscriptions gets what, and what the engine must be told."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine import client_routes
from engine.client_routes import ClientRoutes
from engine.client_subscription import Subscription, SubscriptionOptions
from transport.client_messages import (
    EventMessage,
    Events,
    Gap,
    GapMessage,
    ServerSubscribed,
    ServerUnsubscribed,
    Skipped,
    Slow,
    Subscribed,
)
from transport.errors import ConnectionLost, RequestError
from transport.event import Event
from transport.filters import Filter
from transport.topics import matches


class Owner:
    """A client that reads on by itself."""

    async def enter(self, subscription: Subscription) -> None: ...

    async def leave(self, subscription: Subscription) -> None: ...

    def room_made(self) -> None: ...


def subscription(*topics: str, capacity: int = 10, where: Any = None, **options: Any) -> Subscription:
    asked = SubscriptionOptions(where=None if where is None else Filter.parse(where), **options)
    return Subscription(Owner(), topics, asked, None, capacity)


def subscribed(routes: ClientRoutes, *topics: str, **options: Any) -> Subscription:
    made = subscription(*topics, **options)
    routes.add(made)
    routes.accepted(made, Subscribed(id=1, topics=list(topics)))
    return made


def event(topic: str, offset: int = 1, data: Any = 1) -> EventMessage:
    raw = msgspec.Raw(msgspec.json.encode(data))
    return EventMessage(topic=topic, epoch="e", offset=offset, ts=0.0, data=raw)


def taken(made: Subscription) -> list[str | Gap]:
    items = iter(made.take, None)
    return [f"{item.topic} {item.offset}" if isinstance(item, Event) else item for item in items]


def test_a_message_goes_to_all_that_want_its_topic() -> None:
    routes = ClientRoutes()
    exact, all_of_them, other = subscribed(routes, "a.b"), subscribed(routes, "a.*"), subscribed(routes, "c")
    routes.deliver(event("a.b"))
    routes.deliver(event("a.c"))
    routes.deliver(GapMessage(topic="a.b", epoch="e", first=2, last=3, reason="slow"))
    routes.deliver(Skipped("a.b", 4))
    routes.deliver(Slow(1, 2))
    gap = Gap("a.b", "e", 2, 3, "slow")
    assert (taken(exact), taken(all_of_them), taken(other)) == (["a.b 1", gap], ["a.b 1", "a.c 1", gap], [])
    assert (exact.skipped, all_of_them.skipped, other.skipped) == (4, 4, 0)


def test_a_topic_seen_before_follows_who_comes_and_goes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client_routes, "ROUTES_CACHED", 2)
    routes = ClientRoutes()
    first = subscribed(routes, ">")
    routes.deliver(event("a", 1))
    second = subscribed(routes, "a", "b")
    routes.deliver(event("a", 2))
    assert routes.remove(first) == [">"]
    for topic in ("a", "b", "c", "a"):
        routes.deliver(event(topic, 3))
        assert len(routes._routes) <= 2
    assert (taken(first), taken(second)) == (["a 1", "a 2"], ["a 2", "a 3", "b 3"])


def test_one_that_the_engine_has_not_accepted_gets_nothing() -> None:
    routes, waiting = ClientRoutes(), subscription("a")
    routes.add(waiting)
    routes.deliver(event("a", 1))
    assert routes.reconnected() == []  # whoever asks for it does so until there is an answer
    routes.accepted(waiting, Subscribed(id=1))
    routes.deliver(event("a", 2))
    assert taken(waiting) == ["a 2"]


def test_a_pattern_with_other_options_is_refused() -> None:
    routes = ClientRoutes()
    subscribed(routes, "a", "b")
    with pytest.raises(RequestError, match="'b' is subscribed to with other options") as caught:
        routes.add(subscription("b", "c", snapshot=True))
    assert (caught.value.code, caught.value.field) == ("conflict", "topics")
    assert routes.remove(subscription("c")) == []
    routes.add(subscription("c", snapshot=True))


def test_the_engine_drops_what_nobody_wants_any_more() -> None:
    routes = ClientRoutes()
    one, two = subscribed(routes, "a", "b"), subscribed(routes, "b", "c")
    assert routes.remove(one) == ["a"]
    assert routes.remove(two) == ["b", "c"]
    assert routes.remove(two) == []
    lost = subscribed(routes, "d")
    assert routes.reconnected() == [lost]
    assert routes.remove(lost) == []  # the new session has nothing yet


def test_unsubscribing_ends_who_has_no_pattern_left() -> None:
    routes = ClientRoutes()
    one, two = subscribed(routes, "a", "b"), subscribed(routes, "a")
    routes.deliver(event("a"))
    routes.unsubscribed(["a"], ["b"])
    routes.deliver(event("a", 2))
    assert (one.topics, one.live, two.topics, two.live) == (("b",), True, (), False)
    assert routes.remove(subscription("a")) == []
    assert routes.reconnected() == [one]
    routes.unsubscribed([], [])
    assert (one.live, routes.reconnected()) == (False, [])
    assert (taken(one), taken(two)) == (["a 1"], ["a 1"])


async def ended(made: Subscription) -> str:
    with pytest.raises(ConnectionLost) as caught:
        await made.next_item()
    return str(caught.value)


def test_a_full_one_stops_the_reading_and_an_end_is_told_to_all() -> None:
    routes = ClientRoutes()
    full, roomy = subscribed(routes, "a", capacity=1), subscribed(routes, "a")
    assert not routes.blocking
    routes.deliver(event("a"))
    assert routes.blocking
    routes.end(ConnectionLost("away"))
    assert not routes.blocking
    for made in (full, roomy):
        assert taken(made) == ["a 1"]
        with pytest.raises(StopIteration) as stopped:
            ended(made).send(None)
        assert stopped.value.value == "away"


# Filters, groups, and what the engine begins by itself --------------------------------------------------------------


def test_overlapping_filters_are_told_apart_here() -> None:
    routes = ClientRoutes()
    daily, weekly = subscribed(routes, "t.*", where={"tier": "daily"}), subscribed(routes, "t.x", where={"tier": "w"})
    routes.deliver(Events([event("t.x", 1, {"tier": "daily"}), event("t.x", 2, {"tier": "w"})]))
    everything = subscribed(routes, ">")
    routes.deliver(event("t.x", 3, {"tier": "w"}))
    routes.deliver(event("t.x", 4, {}))
    assert (taken(daily), taken(weekly), taken(everything)) == (["t.x 1"], ["t.x 2", "t.x 3"], ["t.x 3", "t.x 4"])


def test_alone_it_gets_what_the_engine_sends() -> None:
    routes = ClientRoutes()  # topics with the strategy broadcast_all ignore filters
    one, same = subscribed(routes, "t.*", where={"x": 1}), subscribed(routes, "t.>", where={"x": 1})
    routes.deliver(event("t.x", 1, {}))
    assert taken(one) == taken(same) == ["t.x 1"]
    routes.deliver(ServerSubscribed(["t.x"]))
    routes.deliver(event("t.x", 2, {}))  # this came for the operator's pattern
    routes.deliver(event("t.x", 3, {"x": 1}))
    assert taken(one) == taken(same) == ["t.x 3"]


def test_one_and_true_are_different_filters() -> None:
    routes = ClientRoutes()
    subscribed(routes, "a", where={"x": 1})
    with pytest.raises(RequestError, match="other options"):
        routes.add(subscription("a", where={"x": True}))


@pytest.mark.parametrize("topics", [["jobs.*"], ["jobs.>"], [">"], ["*.a"], ["x", "jobs.a"]])
def test_a_group_shares_no_topic(topics: list[str]) -> None:
    for mine, theirs in (({"group": "g"}, {}), ({}, {"group": "g"}), ({"group": "g"}, {"group": "g"})):
        routes = ClientRoutes()
        subscribed(routes, "jobs.*", **mine)
        with pytest.raises(RequestError, match="shares no topic") as caught:
            routes.add(subscription(*topics, **theirs))
        assert (caught.value.code, caught.value.field) == ("conflict", "group")
        routes.add(subscription("jobs", "jobs.a.b", "other.>", **theirs))


TOKENS = st.sampled_from(["a", "b"])
PATTERNS = st.lists(st.one_of(TOKENS, st.just("*")), min_size=1, max_size=3).flatmap(
    lambda tokens: st.sampled_from([tokens, [*tokens, ">"]])
)


@given(PATTERNS, PATTERNS)
def test_patterns_overlap_if_a_topic_matches_both(one: list[str], other: list[str]) -> None:
    left, right = ".".join(one), ".".join(other)
    tokens = ["a", "b"]
    topics = [[t] for t in tokens]
    for _ in range(4):
        topics += [[*topic, t] for topic in topics for t in tokens if len(topic) < 5]
    both = any(matches(left, name) and matches(right, name) for name in map(".".join, topics))
    assert client_routes._overlap(left, right) == client_routes._overlap(right, left) == both


def test_an_inbox_follows_what_the_engine_begins_and_ends() -> None:
    routes = ClientRoutes()
    routes.deliver(ServerSubscribed(["user.u"]))
    routes.deliver(event("user.u", 1))  # nobody wants it yet
    inbox = Subscription(Owner(), (), SubscriptionOptions(), None, 10, inbox=True)
    routes.add_inbox(inbox)
    explicit = subscribed(routes, "user.u", snapshot=True)
    routes.deliver(event("user.u", 2))
    assert routes.remove(explicit) == []  # the engine began it: it stays
    routes.deliver(ServerSubscribed(["a.*"]))
    assert inbox.topics == ("a.*", "user.u")
    routes.deliver(event("a.b", 1))
    routes.deliver(ServerUnsubscribed(["user.u"]))
    routes.deliver(event("a.b", 2))
    assert (taken(inbox), taken(explicit)) == (["user.u 2", "a.b 1"], ["user.u 2"])
    routes.unsubscribed([], [])
    assert (inbox.live, inbox.topics) == (True, ())
    assert routes.reconnected() == []


def test_what_an_operator_ends_has_ended_for_who_asked_for_it() -> None:
    routes = ClientRoutes()
    one, two = subscribed(routes, "a", "b"), subscribed(routes, "b")
    routes.deliver(ServerUnsubscribed(["a"]))
    assert (one.topics, one.live, two.live) == (("a",), True, False)
    assert routes.reconnected() == [one]
    assert ended_with(two).code == "forbidden"


def ended_with(made: Subscription) -> RequestError:
    with pytest.raises(RequestError) as caught:
        made.next_item().send(None)
    return caught.value


def test_what_the_engine_began_is_not_left_with_a_subscription() -> None:
    routes = ClientRoutes()
    routes.deliver(ServerSubscribed(["user.u"]))
    explicit = subscribed(routes, "user.u", "b")
    assert routes.remove(explicit) == ["b"]


def test_a_member_of_a_group_misses_what_the_engine_says_and_nothing_else() -> None:
    routes = ClientRoutes()
    member = subscribed(routes, "jobs", group="g")
    routes.deliver(GapMessage(topic="jobs", epoch="e", first=1, last=2, reason="slow"))
    assert routes.reconnected() == [member]
    routes.accepted(member, Subscribed(id=2, topics=["jobs"]))
    routes.deliver(GapMessage(topic="jobs", epoch="e", first=9, last=9, reason="slow"))
    assert taken(member) == [Gap("jobs", "e", 1, 2, "slow"), Gap("jobs", "e", 9, 9, "slow")]


def test_an_event_without_a_place_is_handed_over_and_moves_nothing() -> None:
    routes = ClientRoutes()
    made = subscribed(routes, "a")
    before = (routes.deliver(event("a", 1)), made.since)[1]
    for _ in range(2):
        routes.deliver(EventMessage(topic="a", ts=0.0, data=msgspec.Raw(b"7")))
    assert made.since == before
    routes.deliver(event("a", 2))
    assert taken(made) == ["a 1", "a 0", "a 0", "a 2"]
