"""Where the events of a topic go, remembered: bounded, for a limited time, dropped precisely. Pure; hub and workers.

The hot path is ``cache.recent.get(topic)``, one look into a dict, and :meth:`RouteCache.find` where that finds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import takewhile
from typing import Final, Generic, TypeVar

from transport.topics import is_pattern, matcher

Route = TypeVar("Route")
WILDCARDS_AT_ONCE: Final = 8
"""Changes of wildcards for each of which the cache is looked through; a worker comes or goes with thousands."""


class RouteCache(Generic[Route]):
    """Routes by topic; of the topics, the least recently used go first, by half of the cache at a time.

    Time comes with :meth:`expire`, once per batch of events: no entry is found at or after ``ttl`` seconds of its
    making, if each batch says what time it is before it looks.

    Args:
        limit: topics that are remembered, ``recent`` and older ones together; below 2 is 2.
        ttl: seconds.

    Attributes:
        recent: what was used since about ``limit / 2`` other topics were; to be read only. Always the same dict.
    """

    def __init__(self, limit: int, ttl: float) -> None:
        self._half, self._ttl = max(1, limit // 2), ttl
        self.recent: dict[str, Route] = {}
        self._older: dict[str, Route] = {}
        self._made: dict[str, float] = {}  # when, oldest first; the topics of both
        self._due = float("inf")  # no entry is due earlier

    def __len__(self) -> int:
        return len(self._made)

    def __contains__(self, topic: str) -> bool:
        return topic in self._made

    def find(self, topic: str) -> Route | None:
        """The route of a topic, which is recently used from now on; ``None`` where it is not known."""
        route = self.recent.get(topic)
        if route is None and (route := self._older.pop(topic, None)) is not None:
            self._keep(topic, route)
        return route

    def put(self, topic: str, route: Route, now: float) -> None:
        """Remember the route of a topic, found just ``now`` (seconds, any clock that never falls)."""
        self.drop(topic)
        self._made[topic] = now
        self._due = min(self._due, now + self._ttl)
        self._keep(topic, route)

    def _keep(self, topic: str, route: Route) -> None:
        recent = self.recent
        if len(recent) >= self._half:
            for left in self._older:
                del self._made[left]
            self._older = dict(recent)
            recent.clear()
        recent[topic] = route

    def expire(self, now: float) -> None:
        """Forget what was made ``ttl`` seconds ago or earlier. One comparison, while there is nothing to forget."""
        if now < self._due:
            return
        gone = list(takewhile(lambda topic: self._made[topic] + self._ttl <= now, self._made))
        for topic in gone:
            self.drop(topic)
        self._due = next(iter(self._made.values()), float("inf")) + self._ttl

    def drop(self, pattern: str) -> int:
        """Forget the topics that ``pattern`` matches, whose subscribers have changed; how many.

        Costs one look for an exact topic; for a wildcard 0.1 µs per topic that is remembered and
        0.6 µs per topic that goes.
        """
        if not is_pattern(pattern):
            if self._made.pop(pattern, None) is None:
                return 0
            if self.recent.pop(pattern, None) is None:
                del self._older[pattern]
            return 1
        gone = list(filter(matcher(pattern), self._made))
        if len(gone) == len(self):
            self.clear()
            return len(gone)
        for topic in gone:
            self.drop(topic)
        return len(gone)

    def drop_all(self, patterns: Iterable[str]) -> None:
        """:meth:`drop` for each of them; where many are wildcards, everything, which costs less than to look."""
        wild = 0
        for pattern in patterns:
            wild += is_pattern(pattern)
            if wild > WILDCARDS_AT_ONCE:
                self.clear()
                return
            self.drop(pattern)

    def clear(self) -> None:
        """Forget everything."""
        self.recent.clear()
        self._older.clear()
        self._made.clear()
        self._due = float("inf")
