"""Numbers that an upstream gives its messages: tells holes and repetitions. Pure.

Numbers rise by one per *counter*: one per symbol, or one for the whole feed (``""``). After a reconnect a counter goes
on, unless its first number there is 0 or 1: then the upstream began to count anew. So it did where old numbers come in
a longer run than any repetition, :data:`RUN`, or :data:`NEWER_RUN` with newer times than the last; that run is lost.
"""

from __future__ import annotations

from typing import NamedTuple

COUNTERS = 65_536
"""Counters remembered, at least; those not seen for longest are forgotten first."""
RUN = 1_000
"""Old numbers, each one above the one before, that are a new count and not a repetition."""
NEWER_RUN = 10
"""The same where each has a newer time than the last number that was expected: an upstream that sends again what it has
sent may write a new time on some, not on a run."""
HOLES = 64
"""Holes remembered per counter; the oldest are forgotten first."""


class FeedGap(NamedTuple):
    """Messages of the upstream that did not come.

    Attributes:
        reason: ``sequence`` (numbers were skipped), ``reconnected`` or ``restarted`` (what came meanwhile is not
            known), or the upstream's own word.
        counter: whose numbers, in the upstream's words; ``None``: the whole feed.
        first, last: the missing numbers, both inclusive; ``None``: not known.
    """

    reason: str
    counter: str | None = None
    first: int | None = None
    last: int | None = None


class Repeated(NamedTuple):
    """A message that came before, and is left out."""

    counter: str
    number: int


class _Mark:
    __slots__ = ("at", "connection", "holes", "last", "newer", "old", "run")

    def __init__(self, last: int, connection: int) -> None:
        self.last, self.connection = last, connection
        self.at: float | None = None  # the source's time of `last`
        self.old = self.run = self.newer = 0  # the last old number, how many in a run, and those of them with new times
        self.holes: list[tuple[int, int]] | None = None


class Sequences:
    """One feed's counters; O(1) per number.

    Args:
        late: what fills a hole later is let through, once: for feeds that ask for what they missed.
    """

    def __init__(self, *, late: bool = False, capacity: int = COUNTERS) -> None:
        self._late, self._capacity = late, capacity
        self._young: dict[str, _Mark] = {}
        self._old: dict[str, _Mark] = {}  # two generations: least recently used at the cost of one dict more
        self._connection = 0

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def reconnected(self) -> None:
        """A new connection: counters may begin anew."""
        self._connection += 1

    def clear(self) -> None:
        """Forget all, where numbers mean nothing beyond a connection."""
        self._young, self._old = {}, {}

    def last(self) -> dict[str, int]:
        """The highest number per counter, for those who resume."""
        return {counter: mark.last for counter, mark in {**self._old, **self._young}.items()}

    def see(self, counter: str, number: int, at: float | None = None) -> FeedGap | Repeated | None:
        """Take note of a number; ``None`` if it is the expected one. A gap comes before the message that shows it.

        Args:
            at: the source's time, where it is known.
        """
        mark = self._young.get(counter) or self._recall(counter, number)
        if number > mark.last:
            if mark.run:  # the count goes on: what came before were repetitions
                mark.run = mark.newer = 0
            if number == mark.last + 1:
                mark.last, mark.connection, mark.at = number, self._connection, at
                return None
            gap = FeedGap("sequence", counter or None, mark.last + 1, number - 1)
            if self._late:
                mark.holes = [*(mark.holes or ()), (mark.last + 1, number - 1)][-HOLES:]
            mark.last, mark.connection, mark.at = number, self._connection, at
            return gap
        if mark.connection != self._connection and number <= 1:
            return self._restart(mark, counter, number, at)
        mark.connection = self._connection
        if mark.holes and _fill(mark.holes, number):
            return None
        follows = number == mark.old + 1
        mark.run = mark.run + 1 if follows else 1
        newer = at is not None and mark.at is not None and at > mark.at
        mark.newer = (mark.newer + 1 if follows else 1) if newer else 0
        mark.old = number
        if mark.run > RUN or mark.newer > NEWER_RUN:
            return self._restart(mark, counter, number, at)
        return Repeated(counter, number)

    def _restart(self, mark: _Mark, counter: str, number: int, at: float | None) -> FeedGap:
        mark.last, mark.connection, mark.at, mark.holes = number, self._connection, at, None
        mark.run = mark.newer = 0
        return FeedGap("restarted", counter or None)

    def _recall(self, counter: str, number: int) -> _Mark:
        """The mark of a counter that is not young; a new one expects just this number."""
        mark = self._old.pop(counter, None) or _Mark(number - 1, self._connection)
        if len(self._young) >= self._capacity:
            self._old, self._young = self._young, {}
        self._young[counter] = mark
        return mark


def _fill(holes: list[tuple[int, int]], number: int) -> bool:
    for i, (first, last) in enumerate(holes):
        if first <= number <= last:
            holes[i : i + 1] = [part for part in ((first, number - 1), (number + 1, last)) if part[0] <= part[1]]
            del holes[:-HOLES]  # what lands amid a hole makes two of it
            return True
    return False
