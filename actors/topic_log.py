"""Epochs, offsets and last events of topics: the router's pure core. The clock and the source of epochs are passed in.

Offsets rise by one per topic within an epoch. A topic that was idle for long is forgotten and returns with a new epoch.
The log's ``position`` counts all accepted events of this log.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

from transport.codes import ErrorCode
from transport.errors import RequestError
from transport.messages import Publication, Publish
from transport.topics import is_pattern, matcher


class _Topic:
    __slots__ = ("epoch", "last", "offset")

    def __init__(self, epoch: str) -> None:
        self.epoch = epoch
        self.offset = 0
        self.last: Publication | None = None


class TopicLog:
    """One per hub.

    Args:
        max_topics: a publish to a further topic is refused.
        new_epoch: makes a string that was never an epoch before.
    """

    def __init__(self, max_topics: int, new_epoch: Callable[[], str]) -> None:
        self._max_topics, self._new_epoch = max_topics, new_epoch
        self._topics: dict[str, _Topic] = {}
        self._log = self._epoch = new_epoch()  # `_epoch` is what the next new topic gets
        self._accepted = 0

    def __len__(self) -> int:
        return len(self._topics)

    def accept(self, publish: Publish, now: float) -> Publication:
        """Give an event its place. ``now``: Unix seconds; a topic's ``ts`` never falls.

        Raises:
            RequestError: ``limit_exceeded`` for one topic too many.
        """
        topic = self._topics.get(publish.topic)
        if topic is None:
            topic = self._add(publish.topic)
        topic.offset += 1
        self._accepted += 1
        last = topic.last
        if last is not None and last.ts > now:
            now = last.ts
        _, name, kind, data, key, priority, source_ts = publish
        accepted = Publication(name, topic.epoch, topic.offset, now, kind, data, key, priority, source_ts)
        topic.last = accepted
        return accepted

    def _add(self, name: str) -> _Topic:
        if len(self._topics) >= self._max_topics:
            raise RequestError(
                ErrorCode.LIMIT_EXCEEDED, f"the engine keeps at most {self._max_topics} topics (limits.topics)", "topic"
            )
        topic = self._topics[name] = _Topic(self._epoch)
        return topic

    @property
    def position(self) -> str:
        """A place in the whole log."""
        return f"{self._log}:{self._accepted}"

    def where(self, name: str) -> tuple[str, int]:
        """Epoch and offset of a topic's last event; of a topic without one, the epoch its first will have, and 0.

        A subscription makes no topic: a stranger could fill the table.
        """
        topic = self._topics.get(name)
        return (self._epoch, 0) if topic is None else (topic.epoch, topic.offset)

    def last(self, pattern: str) -> list[Publication]:
        """Last events of what a pattern matches. Cost: O(1) for a topic, O(topics) for a wildcard."""
        if not is_pattern(pattern):
            topic = self._topics.get(pattern)
            return [topic.last] if topic is not None and topic.last is not None else []
        match = matcher(pattern)
        return [topic.last for name, topic in self._topics.items() if topic.last is not None and match(name)]

    def page(self, after: str, limit: int) -> list[Publication]:
        """The last events of topics with a name above ``after``, by name, at most ``limit``. Cost: O(topics)."""
        named = ((name, topic.last) for name, topic in self._topics.items() if name > after)
        return [last for _, last in heapq.nsmallest(limit, ((n, last) for n, last in named if last is not None))]

    def forget_idle(self, before: float) -> int:
        """Forget topics whose last event is older than ``before`` (Unix seconds); how many."""
        idle = [name for name, topic in self._topics.items() if topic.last is None or topic.last.ts < before]
        for name in idle:
            del self._topics[name]
        if idle:
            self._epoch = self._new_epoch()  # should one of them return, its offsets begin anew
        return len(idle)
