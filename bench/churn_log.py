"""What was published, and what one client must have got of it: the oracle of :mod:`bench.churn`. Pure.

A client keeps a trail: events by their number in the log, and marks where its subscriptions changed. An answer to
``subscribe`` names its place in the log; that of ``unsubscribe`` lies between what the client had got and what was
published when it came.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, lru_cache
from typing import Any, NamedTuple

import msgspec

from transport.filters import MISSING, Filter
from transport.topics import matches

Where = str | None  # as JSON, so that it can be looked up


class Published(NamedTuple):
    """One event; ``fields`` are those of its ``data`` that filters see, in a fixed order."""

    topic: str
    offset: int
    type: str
    key: str | None
    priority: str
    fields: tuple[tuple[str, Any], ...]


class Hold(NamedTuple):
    """What a client asks of one pattern; the least ``restriction`` of those that match a topic counts."""

    where: Where
    restriction: tuple[float, bool, bool]

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Hold:
        """From the fields of a ``subscribe``."""
        where = request.get("where")
        interval = 1 / request["max_rate"] if "max_rate" in request else 0.0
        conflate = bool(request.get("conflate", False)) or interval > 0
        pause = max(interval, request.get("window", 0.0))
        source = None if where is None else msgspec.json.encode(where).decode()
        return cls(source, (pause, conflate, request.get("batch", False)))


class Subscribed(NamedTuple):
    """An ``ok``: from ``place`` on the request holds; with ``snapshot`` last events follow at once."""

    place: int
    patterns: tuple[str, ...]
    hold: Hold
    snapshot: bool


class Unsubscribed(NamedTuple):
    """An ``ok``: from somewhere up to ``latest`` on only these patterns are left."""

    latest: int
    left: tuple[str, ...]


Trail = list[int | Subscribed | Unsubscribed]


class _State(NamedTuple):
    """The subscriptions that hold for the events after a place that is in this range."""

    earliest: int
    latest: int
    held: dict[str, Hold]


class Wrong(Exception):
    """A client got what it should not have got, or in the wrong order."""


class Log:
    """All events in the hub's order; the first has number 1.

    Args:
        unfiltered: patterns of the topics whose strategy ignores filters.
    """

    def __init__(self, unfiltered: Sequence[str] = ()) -> None:
        self.events: list[Published] = []
        self.wanted = 0  # events meant for clients, over all checks, conflated ones included
        self._unfiltered = unfiltered
        self._of_topic: dict[str, list[int]] = {}
        self._of_key: dict[tuple[str, str | None], list[int]] = {}
        self._matching = cache(self._match)

    def __len__(self) -> int:
        return len(self.events)

    def next_offset(self, topic: str) -> int:
        """Of the event that is published next."""
        return len(self._of_topic.get(topic, ())) + 1

    def append(self, event: Published) -> None:
        """It is published."""
        self.events.append(event)
        if event.topic not in self._of_topic:
            self._of_topic[event.topic] = []
            self._matching.cache_clear()
        self._of_topic[event.topic].append(len(self.events))
        self._of_key.setdefault((event.topic, event.key), []).append(len(self.events))

    def _match(self, pattern: str) -> tuple[str, ...]:
        return tuple(topic for topic in self._of_topic if matches(pattern, topic))

    def check(self, trail: Trail, whole: bool) -> list[int]:
        """Hold a trail against the log.

        Args:
            whole: the client is still there and everything has had its time; else it left in the middle, and what was
                on its way is no loss.

        Returns:
            The numbers of the events that are missing.

        Raises:
            Wrong: an event came twice, out of order, before or behind the answer that decides about it, or was not
                asked for.
        """
        states: list[_State] = [_State(0, 0, {})]
        got: dict[int, int] = {}  # number → state as of the wire
        surely: dict[str, int] = {}  # topic → place up to which all must have come
        newest: dict[tuple[str, str], int] = {}  # by topic and priority
        items = iter(trail)
        for item in items:
            if isinstance(item, int):
                event = self.events[item - 1]
                lane = event.topic, event.priority
                if item <= newest.get(lane, 0):
                    raise Wrong(f"{item} came after {newest[lane]}: {event}")
                if item <= surely.get(event.topic, 0):
                    raise Wrong(f"{item} came behind the answer at {surely[event.topic]}: {event}")
                if self._wish(states[-1].held, item) is None:
                    raise Wrong(f"{item} came when {states[-1].held} was in force: {event}")
                newest[lane] = item
                got[item] = len(states) - 1
            elif isinstance(item, Subscribed):
                held = {**states[-1].held, **dict.fromkeys(item.patterns, item.hold)}
                states.append(_State(item.place, item.place, held))
                for topic in {topic for pattern in item.patterns for topic in self._matching(pattern)}:
                    early = [n for (name, _), n in newest.items() if name == topic and n > item.place]
                    if early:
                        raise Wrong(f"{early} came before the answer at {item.place}")
                    surely[topic] = item.place
                if item.snapshot:
                    self._snapshot(item, items)
            else:
                held = {pattern: states[-1].held[pattern] for pattern in item.left}
                earliest = max([states[-1].earliest, *newest.values()])
                states.append(_State(earliest, item.latest, held))
        for i in range(len(states) - 2, -1, -1):  # a change is not later than the next one
            states[i] = states[i]._replace(latest=min(states[i].latest, states[i + 1].latest))
        return self._missing(states, got, newest, surely, whole)

    def _snapshot(self, mark: Subscribed, items: Iterator[int | Subscribed | Unsubscribed]) -> None:
        """The last event of each topic, as far as the filter accepts it, stands right behind the answer."""
        expected = set()
        for topic in {topic for pattern in mark.patterns for topic in self._matching(pattern)}:
            before = bisect_right(self._of_topic[topic], mark.place)
            if before and self._accepts([mark.hold], self._of_topic[topic][before - 1]):
                expected.add(self._of_topic[topic][before - 1])
        found = {next(items, None) for _ in range(len(expected))}
        if found != expected:
            raise Wrong(f"the snapshot at {mark.place} of {mark.patterns} is {found}, not {expected}")

    def _missing(
        self,
        states: list[_State],
        got: dict[int, int],
        newest: dict[tuple[str, str], int],
        surely: dict[str, int],
        whole: bool,
    ) -> list[int]:
        missing = []
        explained = 0
        for n, wishes in self._wishes(states):
            if n in got:
                if not any(wishes):
                    raise Wrong(f"{n} was not asked for: {self.events[n - 1]}")
                explained += 1
                continue
            if None in wishes:
                continue
            self.wanted += 1
            event = self.events[n - 1]
            if "newest" in wishes:
                later = self._of_key[event.topic, event.key]
                later = later[bisect_right(later, n) :]
                if any(m in got for m in later) or (later and not whole):
                    continue  # conflated away
            if whole or n <= surely.get(event.topic, 0) or n < newest.get((event.topic, event.priority), 0):
                missing.append(n)
        self.wanted += explained
        if explained != len(got):
            raise Wrong(f"{len(got) - explained} events came that no subscription matches")
        return missing

    def _wishes(self, states: list[_State]) -> Iterator[tuple[int, list[str | None]]]:
        """Every event that some state in force may want, and what each such state says of it."""
        topics = {topic for state in states for pattern in state.held for topic in self._matching(pattern)}
        for topic in topics:
            numbers = self._of_topic[topic]
            for n in numbers[bisect_right(numbers, states[1].earliest) :]:
                last = len(states) - 1
                while states[last].earliest >= n:
                    last -= 1
                first = last
                while states[first].latest >= n:
                    first -= 1
                yield n, [self._wish(states[i].held, n) for i in range(first, last + 1)]

    def _wish(self, held: dict[str, Hold], n: int) -> str | None:
        """``all``: it must come; ``newest``: it may be conflated away; ``None``: it must not come."""
        topic = self.events[n - 1].topic
        here = [hold for pattern, hold in held.items() if topic in self._matching(pattern)]
        if not here or not self._accepts(here, n):
            return None
        return "newest" if min(hold.restriction for hold in here)[1] else "all"

    def _accepts(self, holds: list[Hold], n: int) -> bool:
        topic, _, kind, key, _, fields = self.events[n - 1]
        return any(hold.where is None or _holds(hold.where, kind, key, fields) for hold in holds) or any(
            matches(pattern, topic) for pattern in self._unfiltered
        )


@lru_cache(maxsize=1 << 18)
def _holds(where: str, kind: str, key: str | None, fields: tuple[tuple[str, Any], ...]) -> bool:
    values = {**dict(fields), "@type": kind, "@key": MISSING if key is None else key}
    return _filter(where).holds(lambda name: values.get(name, MISSING))


@lru_cache(maxsize=1 << 12)
def _filter(where: str) -> Filter:
    return Filter.parse(msgspec.json.decode(where))
