"""When each of many must be looked at again: buckets of whole seconds. Pure.

A timer of the loop per session would cost more memory than the session. Here a look costs what is due, not what waits.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from heapq import heappop, heappush
from typing import Generic, TypeVar

T = TypeVar("T", bound=Hashable)


class Deadlines(Generic[T]):
    """At most one deadline per entry, in seconds of any clock, rounded up. All operations: O(1), or O(log seconds)."""

    def __init__(self) -> None:
        self._second: dict[T, int] = {}
        # An empty bucket stays until its second, so that who moves back and forth does not make the heap grow.
        self._buckets: dict[int, set[T]] = {}
        self._order: list[int] = []

    def __len__(self) -> int:
        return len(self._second)

    def set(self, entry: T, at: float) -> None:
        """Set the deadline, in place of the former one."""
        self.forget(entry)
        second = math.ceil(at)
        bucket = self._buckets.get(second)
        if bucket is None:
            bucket = self._buckets[second] = set()
            heappush(self._order, second)
        bucket.add(entry)
        self._second[entry] = second

    def forget(self, entry: T) -> None:
        """Take the deadline back, if there is one."""
        second = self._second.pop(entry, None)
        if second is not None:
            self._buckets[second].discard(entry)

    def due(self, now: float) -> list[T]:
        """Whose deadline has passed; they have none any more."""
        found: list[T] = []
        while self._order and self._order[0] <= now:
            found.extend(self._buckets.pop(heappop(self._order)))
        for entry in found:
            del self._second[entry]
        return found
