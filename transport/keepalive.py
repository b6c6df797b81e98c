"""One timer for the deadlines of all connections of a listener: a coarse timing wheel.

A timer per connection would cost more memory than the rest of its bookkeeping. Here a connection is an entry in the
bucket of the tick at which somebody must look at it again, so a tick costs what is due in it, not what is connected:
at 25 s a ping, 50,000 connections are 2,000 looks a second, about 1 ms.
"""

from __future__ import annotations

import asyncio
import math
from typing import Protocol

SLICE = 256  # looks per turn of the loop, so that connections of the same second do not hold up the flush


class Watched(Protocol):
    """What has a deadline. ``bucket`` belongs to the :class:`Keepalive`; 0 is none."""

    bucket: int

    def on_deadline(self) -> None:
        """The deadline has passed; usually sets the next one."""


class Keepalive:
    """Calls ``on_deadline`` of each watched object within two ticks after its deadline, never before it.

    Time is counted in ticks that the loop really ran, so that a stall of this process is not held against its clients:
    their pongs were waiting all the time.

    Args:
        loop: the loop of the thread that uses it.
        tick: seconds.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, tick: float) -> None:
        if tick <= 0:
            raise ValueError("tick must be above 0 s")
        self.loop = loop
        self.tick = tick
        self.now = 1  # ticks; public because every read of a connection notes it
        self._buckets: dict[int, set[Watched]] = {}
        self._due: list[Watched] = []
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Begin to count."""
        if self._timer is None:
            self._timer = self.loop.call_later(self.tick, self._advance)

    def stop(self) -> None:
        """Stop counting and forget everything."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = None
        self._buckets.clear()
        self._due.clear()

    def ticks(self, delay: float) -> int:
        """``delay`` seconds in whole ticks, rounded up, with one more as the current tick is partly over."""
        return math.ceil(delay / self.tick) + 1

    def watch(self, entry: Watched, ticks: int) -> None:
        """Set the one deadline of ``entry``, in place of the former one."""
        self.forget(entry)
        entry.bucket = self.now + max(1, ticks)
        bucket = self._buckets.get(entry.bucket)
        if bucket is None:
            bucket = self._buckets[entry.bucket] = set()
        bucket.add(entry)

    def forget(self, entry: Watched) -> None:
        """Take the deadline back. One that is due this very tick may still be called."""
        bucket = self._buckets.get(entry.bucket)
        if bucket is not None:
            bucket.discard(entry)
        entry.bucket = 0

    def _advance(self) -> None:
        self._timer = self.loop.call_later(self.tick, self._advance)
        self.now += 1
        idle = not self._due
        self._due.extend(self._buckets.pop(self.now, ()))
        if idle:
            self._look()

    def _look(self) -> None:
        for _ in range(min(SLICE, len(self._due))):
            entry = self._due.pop()
            if entry.bucket and entry.bucket <= self.now:  # else it was forgotten, or set anew, since
                entry.on_deadline()
        if self._due:
            self.loop.call_soon(self._look)
