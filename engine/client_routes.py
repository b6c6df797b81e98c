"""The subscriptions of one client: who gets which message, and which patterns the engine has for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from engine.client_subscription import Subscription
from transport.client_messages import (
    EventMessage,
    Events,
    GapMessage,
    Message,
    PositionMessage,
    ServerSubscribed,
    ServerUnsubscribed,
    Skipped,
    Subscribed,
)
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError
from transport.event import Event
from transport.fields import lookup
from transport.messages import Publication
from transport.topics import matches

ROUTES_CACHED = 10_000  # topics


class _Route(NamedTuple):
    """Who wants a topic. ``shared``: an event may come for one of them and not for another, so filters are applied."""

    subscriptions: list[Subscription]
    shared: bool


class ClientRoutes:
    """Each message goes to every subscription that wants it, whichever it came for.

    The engine sends an event once, under the least restrictive of the patterns that match. Where subscriptions with
    different filters overlap, each one's own filter is applied here again.
    """

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._routes: dict[str, _Route] = {}
        # Patterns that this connection's session has at the engine: asked for, and those that the engine began itself.
        self._held: set[str] = set()
        self._given: set[str] = set()

    @property
    def blocking(self) -> bool:
        """Whether the client should not read on before some of what is here was consumed."""
        return any(subscription.blocking for subscription in self._subscriptions)

    def add(self, subscription: Subscription) -> None:
        """One that the engine is asked for.

        Raises:
            RequestError: ``conflict``: the engine has one of its patterns with other options, or a consumer group
                would share events with others, and nobody could tell which of them an event was assigned to.
        """
        for other in self._subscriptions:
            if subscription.options.group is not None or other.options.group is not None:
                both = next(((a, b) for a in subscription.topics for b in other.topics if _overlap(a, b)), None)
                if both is not None:
                    message = f"a member of a consumer group shares no topic: {' and '.join(both)}; use another Client"
                    raise RequestError(ErrorCode.CONFLICT, message, "group")
            shared = set(other.topics) & set(subscription.topics)
            if shared and other.options != subscription.options and not other.inbox:
                message = f"{min(shared)!r} is subscribed to with other options by this client; use another Client"
                raise RequestError(ErrorCode.CONFLICT, message, "topics")
        self._subscriptions.append(subscription)

    def add_inbox(self, subscription: Subscription) -> None:
        """One for what the engine has subscribed this session to by itself."""
        subscription.live = True
        self._subscriptions.append(subscription)
        self._give()

    def accepted(self, subscription: Subscription, answer: Subscribed) -> None:
        """The engine has it from here on."""
        self._held.update(subscription.topics)
        subscription.subscribed(answer)
        self._routes.clear()

    def remove(self, subscription: Subscription) -> list[str]:
        """Forget it, known or not; the patterns that the engine has now for nobody and must be told to drop."""
        if subscription in self._subscriptions:
            self._subscriptions.remove(subscription)
        self._routes.clear()
        wanted = {topic for other in self._subscriptions for topic in other.topics}
        gone = self._held.intersection(subscription.topics) - wanted
        self._held -= gone
        return sorted(gone - self._given)

    def unsubscribed(self, topics: Sequence[str], left: Sequence[str]) -> None:
        """The engine has dropped ``topics`` (empty: all) and has ``left``; who has no pattern left has ended."""
        self._left(left)
        for subscription in self._chosen():
            subscription.topics = tuple(topic for topic in subscription.topics if topics and topic not in topics)
            self._end_without_topics(subscription, None)

    def reconnected(self) -> list[Subscription]:
        """A new session, for which the engine has nothing yet; those that it must be asked for again."""
        self._held.clear()
        self._given.clear()
        self._give()
        again = [subscription for subscription in self._subscriptions if subscription.live]
        for subscription in again:
            subscription.reconnected()
        return [subscription for subscription in again if not subscription.inbox]

    def deliver(self, message: Message) -> None:
        """Hand over events, or what is said about those that did not come or where they come from; other messages are
        for nobody here."""
        if isinstance(message, EventMessage):
            self._deliver(message)
        elif isinstance(message, Events):
            for event in message.events:
                self._deliver(event)
        elif isinstance(message, GapMessage):
            for subscription in self._to(message.topic).subscriptions:
                subscription.deliver_gap(message.gap())
        elif isinstance(message, PositionMessage):
            for subscription in self._subscriptions:
                subscription.reached(message.position)
        elif isinstance(message, Skipped):
            for subscription in self._to(message.topic).subscriptions:
                subscription.skipped += message.count
        else:
            self._change(message)

    def end(self, failure: HeliographError | None) -> None:
        """Nothing more will come for any of them."""
        for subscription in self._subscriptions:
            subscription.end(failure)

    def _change(self, message: Message) -> None:
        if isinstance(message, ServerSubscribed):
            self._given.update(message.topics)
            for subscription in self._give():
                subscription.subscribed(message)
        elif isinstance(message, ServerUnsubscribed):
            self._server_unsubscribed(message.topics)

    def _deliver(self, message: EventMessage) -> None:
        subscriptions, shared = self._to(message.topic)
        if not subscriptions:
            return
        event = message.event()
        if not shared:
            for subscription in subscriptions:
                subscription.deliver(event)
            return
        value_of = lookup(_publication(event))
        for subscription in subscriptions:
            where = subscription.options.where
            if where is None or where.holds(value_of):
                subscription.deliver(event)

    def _chosen(self) -> list[Subscription]:
        return [subscription for subscription in self._subscriptions if not subscription.inbox]

    def _give(self) -> list[Subscription]:
        """Tell the inboxes their patterns; returns them."""
        self._routes.clear()
        inboxes = [subscription for subscription in self._subscriptions if subscription.inbox]
        for subscription in inboxes:
            subscription.topics = tuple(sorted(self._given))
        return inboxes

    def _server_unsubscribed(self, left: Sequence[str]) -> None:
        gone = self._held.difference(left)
        self._left(left)
        for subscription in self._chosen():
            if not gone.isdisjoint(subscription.topics):
                subscription.topics = tuple(topic for topic in subscription.topics if topic not in gone)
                text = f"the engine has ended the subscription to {', '.join(sorted(gone))}"
                self._end_without_topics(subscription, RequestError(ErrorCode.FORBIDDEN, text))

    def _left(self, left: Sequence[str]) -> None:
        self._held.intersection_update(left)
        self._given.intersection_update(left)
        self._give()

    def _end_without_topics(self, subscription: Subscription, failure: RequestError | None) -> None:
        if not subscription.topics:
            self._subscriptions.remove(subscription)
            subscription.end(failure)

    def _to(self, topic: str) -> _Route:
        found = self._routes.get(topic)
        if found is None:
            if len(self._routes) >= ROUTES_CACHED:
                self._routes.clear()
            wanting = [subscription for subscription in self._subscriptions if subscription.wants(topic)]
            filters = {subscription.options.where for subscription in wanting}
            given = any(matches(pattern, topic) for pattern in self._given)
            found = self._routes[topic] = _Route(wanting, len(filters) > 1 or (given and filters != {None}))
        return found


def _publication(event: Event) -> Publication:
    return Publication(event.topic, event.epoch, event.offset, event.ts, event.type, event.payload, event.key)


def _overlap(one: str, other: str) -> bool:
    """Whether some topic may match both patterns."""
    left, right = one.split("."), other.split(".")
    for a, b in zip(left, right, strict=False):
        if ">" in (a, b):
            return True
        if a != b and "*" not in (a, b):
            return False
    return len(left) == len(right)
