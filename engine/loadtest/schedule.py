"""When each message is due: an open loop, so a server that stalls cannot slow down who measures it."""

from __future__ import annotations

from typing import NamedTuple

SECOND: int = 1_000_000
"""Microseconds."""


class Schedule(NamedTuple):
    """Message n (from 0) is due at ``start`` + n / ``rate``, whatever happened to those before it.

    Times are whole microseconds of one clock; ``rate`` is messages per second, above 0.
    """

    start: int
    rate: float

    def due(self, n: int) -> int:
        """When message ``n`` is due."""
        return self.start + int(n * SECOND / self.rate)

    def ready(self, now: int) -> int:
        """How many messages are due at ``now``: those before this number."""
        if now < self.start:
            return 0
        n = int((now - self.start) * self.rate / SECOND)
        while self.due(n) <= now:  # at most two steps: what the division lost
            n += 1
        while n and self.due(n - 1) > now:
            n -= 1
        return n
