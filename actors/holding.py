"""What waits on a route between two sendings: collected, or conflated by key. Pure."""

from __future__ import annotations

from typing import NamedTuple

from transport.messages import Publication

MOST = 10_000
"""Events; a route that holds as many is sent before its time."""


class Held(NamedTuple):
    """One event that waits; ``number`` is its place in the order of arrival on this route."""

    number: int
    publication: Publication


class Holding:
    """Events of one route in the order of their offsets; with ``conflate`` the newest per topic and key only.

    A newer event takes the place at the end, so that what is sent together rises in offset per topic.
    Cost: O(1) per event.

    Attributes:
        skipped: topic → events conflated away and not told yet.
        arrived: events that ever came.
    """

    __slots__ = ("_conflate", "_events", "arrived", "skipped")

    def __init__(self, conflate: bool) -> None:
        self._conflate = conflate
        self._events: dict[object, Held] = {}
        self.skipped: dict[str, int] = {}
        self.arrived = 0

    def __len__(self) -> int:
        return len(self._events)

    @property
    def full(self) -> bool:
        """Whether it is time to send, whatever the interval."""
        return len(self._events) >= MOST

    def put(self, publication: Publication) -> None:
        """An event comes to wait."""
        self.arrived += 1
        key: object = self.arrived
        if self._conflate:
            key = (publication.topic, publication.key)
            if self._events.pop(key, None) is not None:
                self._skip(publication.topic)
        self._events[key] = Held(self.arrived, publication)

    def overtaken(self, publication: Publication) -> None:
        """``publication`` was sent at once: an older one of its key is of no use any more."""
        if self._conflate and self._events.pop((publication.topic, publication.key), None) is not None:
            self._skip(publication.topic)

    def take(self) -> list[Held]:
        """All that waits, in order."""
        taken = list(self._events.values())
        self._events.clear()
        return taken

    def peek(self, after: int = 0) -> list[Publication]:
        """What waits and came after the ``after``-th event."""
        return [publication for number, publication in self._events.values() if number > after]

    def take_skipped(self) -> dict[str, int]:
        """What was conflated away since this was asked last."""
        skipped, self.skipped = self.skipped, {}
        return skipped

    def _skip(self, topic: str) -> None:
        self.skipped[topic] = self.skipped.get(topic, 0) + 1
