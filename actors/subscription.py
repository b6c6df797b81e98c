"""What one session has subscribed to, and how its events are to be delivered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, cast

import msgspec

from transport.filters import Filter
from transport.requests import Subscribe

if TYPE_CHECKING:
    from actors.session import Session


class Delivery(NamedTuple):
    """How the events of a subscription reach the client. Sessions that want the same form a cohort.

    Attributes:
        interval: seconds at least between two sendings to a topic's cohort; 0: no bound.
        window: seconds for which events are collected from the first one on; 0: the pacer alone decides.
        conflate: of what waits, only the newest per topic and key.
        batch: what is sent together is one frame.
        by_priority: what is sent together is sent by priority.
    """

    interval: float = 0.0
    window: float = 0.0
    conflate: bool = False
    batch: bool = False
    by_priority: bool = False

    @property
    def held(self) -> bool:
        """Whether events wait on the route for more than the next flush, or not each for itself."""
        return self.interval > 0 or self.window > 0 or self.conflate or self.batch

    @property
    def restriction(self) -> tuple[float, bool, bool]:
        """What overlapping subscriptions of a session are compared by; the least one counts."""
        return max(self.interval, self.window), self.conflate, self.batch


PLAIN = Delivery()
"""The fast lane."""


class Subscription:
    """One session's hold on one pattern, which is its identity. Memory: 64 bytes and the filter.

    ``session`` is what a :class:`FilterIndex` lists; without a filter nobody asks for it.
    """

    __slots__ = ("delivery", "filter", "group", "session")

    def __init__(
        self,
        session: Session,
        filter: Filter | None = None,
        delivery: Delivery = PLAIN,
        group: str | None = None,
    ) -> None:
        self.session, self.filter, self.delivery, self.group = session, filter, delivery, group

    def same(self, other: Subscription) -> bool:
        """Whether the other one asks for the same."""
        mine, theirs = self.filter, other.filter
        return (
            (mine is None if theirs is None else mine is not None and mine.source == theirs.source)
            and self.delivery == other.delivery
            and self.group == other.group
        )

    @property
    def options(self) -> dict[str, Any]:
        """What was asked for besides the topic, as in the request."""
        interval, window, conflate, batch, _ = self.delivery
        options: dict[str, Any] = {}
        if self.filter is not None:
            options["where"] = msgspec.Raw(self.filter.source)
        if interval:
            options["max_rate"] = 1 / interval
        elif conflate:
            options["conflate"] = True
        if window:
            options["window"] = window
        if batch:
            options["batch"] = True
        if self.group is not None:
            options["group"] = self.group
        return options


def delivery(request: Subscribe) -> Delivery:
    """What a request asks for. A rate has to lose something: it implies conflation."""
    interval = 0.0 if request.max_rate is None else 1 / request.max_rate
    wanted = Delivery(interval, request.window, request.conflate or interval > 0, request.batch)
    return PLAIN if wanted == PLAIN else wanted


EVERYTHING = Subscription(cast("Session", None))
"""A subscription without options; shared by all sessions, so that a plain client costs nothing."""
