"""The subscriptions of one client: who gets which message, and which patterns the engine has for them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from engine.client_subscription import Subscription
from transport.client_messages import EventMessage, GapMessage, Message, Skipped, Subscribed
from transport.codes import ErrorCode
from transport.errors import HeliographError, RequestError

ROUTES_CACHED = 10_000  # topics


class ClientRoutes:
    """Each message goes to every subscription that wants its topic, whichever it came for."""

    def __init__(self) -> None:
        self._subscriptions: list[Subscription] = []
        self._routes: dict[str, list[Subscription]] = {}
        self._held: set[str] = set()  # patterns that this connection's session has at the engine

    @property
    def blocking(self) -> bool:
        """Whether the client should not read on before some of what is here was consumed."""
        return any(subscription.blocking for subscription in self._subscriptions)

    def add(self, subscription: Subscription) -> None:
        """One that the engine is asked for.

        Raises:
            RequestError: ``conflict``: the engine has one of its patterns with other options.
        """
        for other in self._subscriptions:
            shared = set(other.topics) & set(subscription.topics)
            if shared and other.options != subscription.options:
                message = f"{min(shared)!r} is subscribed to with other options by this client; use another Client"
                raise RequestError(ErrorCode.CONFLICT, message, "topics")
        self._subscriptions.append(subscription)

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
        return sorted(gone)

    def unsubscribed(self, topics: Sequence[str], left: Sequence[str]) -> None:
        """The engine has dropped ``topics`` (empty: all) and has ``left``; who has no pattern left has ended."""
        self._held = set(left)
        for subscription in list(self._subscriptions):
            subscription.topics = tuple(topic for topic in subscription.topics if topics and topic not in topics)
            if not subscription.topics:
                self._subscriptions.remove(subscription)
                subscription.end()
        self._routes.clear()

    def reconnected(self) -> list[Subscription]:
        """A new session, for which the engine has nothing yet; those that it must be asked for again."""
        self._held.clear()
        again = [subscription for subscription in self._subscriptions if subscription.live]
        for subscription in again:
            subscription.reconnected()
        return again

    def deliver(self, message: Message) -> None:
        """Hand over an event, or what is said about those that did not come; other messages are for nobody here."""
        if isinstance(message, EventMessage):
            subscriptions = self._to(message.topic)
            if subscriptions:
                event = message.event()
                for subscription in subscriptions:
                    subscription.deliver(event)
        elif isinstance(message, GapMessage):
            for subscription in self._to(message.topic):
                subscription.deliver_gap(message.gap())
        elif isinstance(message, Skipped):
            for subscription in self._to(message.topic):
                subscription.skipped += message.count

    def end(self, failure: HeliographError | None) -> None:
        """Nothing more will come for any of them."""
        for subscription in self._subscriptions:
            subscription.end(failure)

    def _to(self, topic: str) -> list[Subscription]:
        found = self._routes.get(topic)
        if found is None:
            if len(self._routes) >= ROUTES_CACHED:
                self._routes.clear()
            found = self._routes[topic] = [s for s in self._subscriptions if s.wants(topic)]
        return found
