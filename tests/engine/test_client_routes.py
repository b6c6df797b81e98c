"""Who of a client's subscriptions gets what, and what the engine must be told."""

from __future__ import annotations

import msgspec
import pytest

from engine import client_routes
from engine.client_routes import ClientRoutes
from engine.client_subscription import Subscription, SubscriptionOptions
from transport.client_messages import EventMessage, Gap, GapMessage, Skipped, Slow, Subscribed
from transport.errors import ConnectionLost, RequestError
from transport.event import Event


class Owner:
    """A client that reads on by itself."""

    async def enter(self, subscription: Subscription) -> None: ...

    async def leave(self, subscription: Subscription) -> None: ...

    def room_made(self) -> None: ...


def subscription(*topics: str, capacity: int = 10, snapshot: bool = False) -> Subscription:
    return Subscription(Owner(), topics, SubscriptionOptions(snapshot=snapshot), None, capacity)


def subscribed(routes: ClientRoutes, *topics: str, capacity: int = 10) -> Subscription:
    made = subscription(*topics, capacity=capacity)
    routes.add(made)
    routes.accepted(made, Subscribed(id=1, topics=list(topics)))
    return made


def event(topic: str, offset: int = 1) -> EventMessage:
    return EventMessage(topic=topic, epoch="e", offset=offset, ts=0.0, data=msgspec.Raw(b"1"))


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
